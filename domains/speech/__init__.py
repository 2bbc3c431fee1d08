"""Speech: recordings of people talking, embedded frame by frame (TERA)."""

from hub.domain import register_domain

register_domain(__name__)
