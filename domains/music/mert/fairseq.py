"""What a fairseq checkpoint holds beside tensors, read by harmless classes that run nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Inert:
    """Stands for any class of the training code: keeps its state, and does nothing with it."""

    def __init__(self, *arguments: Any) -> None:
        """Keep what it was made with."""
        self.__dict__["_val"] = arguments[0] if arguments else None

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        if isinstance(state, Mapping):
            self.__dict__.update(state)


_NAMES = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.EnumNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "typing.Any",
    "argparse.Namespace",
    "fairseq.data.dictionary.Dictionary",
)
STAND_INS: tuple[tuple[type, str], ...] = tuple((type(n.rsplit(".", 1)[1], (Inert,), {}), n) for n in _NAMES)


def option(content: Mapping[str, Any], section: str, name: str) -> Any:
    """Return an option of the training's configuration, or None where it is not told.

    Args:
        content: The checkpoint.
        section: ``model`` or ``task``.
        name: Of the option.
    """
    value: Any = content.get("cfg")
    for key in (section, name):
        value = _plain(value)
        value = value.get(key) if isinstance(value, Mapping) else None
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Inert):
        state = value.__dict__
        return state["_content"] if "_content" in state else state.get("_val")
    return value
