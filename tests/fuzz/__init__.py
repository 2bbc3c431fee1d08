"""Mutated files through the readers of all domains: ``python -m tests.fuzz --help``."""
