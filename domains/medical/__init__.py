"""Medical images: slices and volumes as hospitals and data sets store them."""

from hub.domain import register_domain

register_domain(__name__)
