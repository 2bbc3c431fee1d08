"""Graphs: nodes with features, and molecules, embedded node by node or whole."""

import contextlib
import warnings

from hub.domain import register_domain

with warnings.catch_warnings(), contextlib.suppress(ImportError):
    # On import it uses a part of torch that newer versions warn about.
    warnings.simplefilter("ignore", FutureWarning)
    import torch_geometric  # noqa: F401

register_domain(__name__)
