"""EEG: recordings of the brain's electric field at the scalp, embedded window by window."""

from hub.domain import register_domain

register_domain(__name__)
