"""pretrain-gnns (Hu et al., ICLR 2020, arXiv 1905.12265): its published encoders, MolCLR's, and attribute masking."""
