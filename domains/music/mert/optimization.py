"""MERT's optimiser, as HuBERT's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

BETAS = (0.9, 0.98)
EPSILON = 1e-6


class MertAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` with the averages and the epsilon of the published training."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float = 5e-4) -> None:
        """Create the optimiser.

        Args:
            params: Groups, each with its own weight decay.
            lr: Peak learning rate.
        """
        super().__init__(params, lr=lr, betas=BETAS, eps=EPSILON)
