"""Network traffic: captures cut to flows, bursts and header tokens, and embedded flow by flow."""

from hub.domain import register_domain

register_domain(__name__)
