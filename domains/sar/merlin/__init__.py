"""MERLIN: despeckling networks that learn from single-look complex images alone."""
