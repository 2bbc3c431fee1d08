"""Synthetic aperture radar: complex and detected images, despeckled and embedded."""

from hub.domain import register_domain

register_domain(__name__)
