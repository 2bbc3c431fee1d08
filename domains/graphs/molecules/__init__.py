"""Molecules: the vocabulary, the readers and the one encoder that the molecular systems share."""
