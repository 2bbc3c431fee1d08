"""GraphMAE: self-supervised masked graph autoencoders (Hou et al., KDD 2022, arXiv 2205.10803)."""
