"""Official checkpoint files: what every converter does alike. Nothing of a file is run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hub.errors import InvalidCheckpoint

SHOWN_NAMES = 6


def read_official(path: Path, stand_ins: Sequence[tuple[type, str]] = ()) -> Any:
    """Return what a file holds, its tensors on the CPU.

    Args:
        path: A PyTorch file (zip or legacy container), or one of safetensors.
        stand_ins: Harmless classes of our own, each with the full name of the class in the file that it stands for.

    Raises:
        InvalidCheckpoint: It is damaged, or names a class or function that nothing stands for.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for {refused[1]}, which is not loaded" if refused else "its pickle cannot be read"
        raise InvalidCheckpoint(f"{path.name} is refused: {reason}", code="unsafe_checkpoint") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, OSError, SafetensorError) as error:
        raise InvalidCheckpoint(f"{path.name} is no checkpoint file ({type(error).__name__} on reading)") from None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that holds nothing else, by name, on the CPU.

    Raises:
        InvalidCheckpoint: It is damaged, wants something run, or is no dictionary of tensors.
    """
    content = read_official(path)
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        held = f"a dictionary of {some_names(content)}" if isinstance(content, Mapping) else type(content).__name__
        raise InvalidCheckpoint(f"{path.name} holds {held}; a dictionary of tensors was expected")
    return dict(content)


def load_exactly(model: nn.Module, weights: Mapping[str, Tensor], source: str, what: str) -> None:
    """Put weights into a model, which must be exactly its own.

    Args:
        model: To fill.
        weights: Under the model's names.
        source: What messages call the file.
        what: Whose weights they should be, for example ``TERA's weights``.

    Raises:
        InvalidCheckpoint: Names are missing, unexpected, or of another shape; the text has them.
    """
    expected = model.state_dict()
    missing, unexpected = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    other = {k for k in expected.keys() & weights.keys() if expected[k].shape != weights[k].shape}
    if missing or unexpected or other:
        raise InvalidCheckpoint(
            f"{source} does not hold {what}. Missing: {some_names(missing)}. Unexpected: {some_names(unexpected)}. "
            f"Of another shape: {some_names(other)}."
        )
    model.load_state_dict(weights)


def some_names(names: Iterable[Any]) -> str:
    """List the first few names, and how many more there are."""
    ordered = sorted(map(str, names))
    more = f" and {len(ordered) - SHOWN_NAMES} more" if len(ordered) > SHOWN_NAMES else ""
    return ", ".join(ordered[:SHOWN_NAMES]) + more if ordered else "none"
