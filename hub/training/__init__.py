"""The one training loop: recipes, data, batches, checkpoints."""

import hub.stack  # noqa: F401  # before transformers' Trainer, which would fail somewhere deep
