"""The optimiser that the published GraphMAE runs use."""

from __future__ import annotations

from torch.optim import Adam as Adam  # weight decay is added to the gradient, unlike in AdamW
