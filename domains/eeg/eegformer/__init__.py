"""EEGFormer: a transferable and interpretable EEG model with discrete codes (Chen et al., arXiv 2401.10278)."""
