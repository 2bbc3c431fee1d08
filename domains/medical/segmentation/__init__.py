"""Segmentation with any encoder of this domain: a decoder on its feature maps, its training, and masks as files."""
