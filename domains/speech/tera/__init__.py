"""TERA: Transformer Encoder Representations from Alteration (Liu, Li and Lee, arXiv 2007.06028)."""
