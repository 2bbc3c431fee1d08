"""Frozen embeddings on labelled sets: probes, retrieval, label-free figures, and the report of them."""
