"""netFound: a hierarchical transformer over the packet headers of a flow (Guthula et al., arXiv 2310.17025)."""
