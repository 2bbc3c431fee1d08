"""Fine-tuning: a labelled head on any encoder, stored as a plain checkpoint that loads and serves like every other.

``task`` and ``model`` say what a fine-tuned checkpoint is; ``options``, ``targets``, ``splitting`` and ``data`` prepare
a run; ``modes``, ``losses``, ``metrics`` and ``trainer`` are its parts; ``run`` and ``compare`` put them together.
"""
