"""ParetoGNN: multi-task self-supervised learning for graphs (Ju et al., ICLR 2023, arXiv 2210.02016)."""
