"""Probes of frozen embeddings on labelled sets."""
