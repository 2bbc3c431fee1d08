"""D-SLA: Discrepancy-based Self-supervised LeArning (Kim, Baek and Hwang, NeurIPS 2022, arXiv 2202.02989)."""
