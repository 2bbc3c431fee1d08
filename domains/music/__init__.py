"""Music: recordings as musicians have them, embedded frame by frame (MERT)."""

from hub.domain import register_domain

register_domain(__name__)
