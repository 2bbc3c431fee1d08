"""Nereus-SAR-1, later renamed OceanSAR-1: self-distillation on detected SAR images with dynamic curation."""
