"""The one training loop: recipes, data, batches, checkpoints."""
