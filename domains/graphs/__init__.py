"""Graphs: nodes with features, and molecules, embedded node by node or whole."""

from hub.domain import register_domain

register_domain(__name__)
