"""The domains that fmhub ships, one folder each."""
