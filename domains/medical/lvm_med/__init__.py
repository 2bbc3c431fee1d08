"""LVM-Med: image encoders pretrained by second-order graph matching (Nguyen et al. 2023, arXiv 2306.11925)."""
