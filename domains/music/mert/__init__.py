"""MERT: acoustic music understanding by large-scale self-supervised training (Li et al., arXiv 2306.00107)."""
