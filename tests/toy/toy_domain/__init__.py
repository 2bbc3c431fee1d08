"""A domain outside the tree: named sequences of numbers."""

from hub.domain import register_domain

register_domain(__name__)
