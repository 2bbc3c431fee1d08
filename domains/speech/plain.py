"""Lists and arrays of samples, from JSON or Python, checked without repeating their content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def parse_samples(value: Mapping[str, Any]) -> tuple[np.ndarray | None, str | None]:
    """Return the samples as float32, or what is wrong with them."""
    if value.get("samples") is None:
        return None, "'samples' is missing: give a list of numbers"
    samples = value["samples"]
    if hasattr(samples, "detach"):  # a torch tensor
        samples = samples.detach().cpu().numpy()
    if isinstance(samples, list | tuple):
        if not all(map(_is_number, set(map(type, samples)))):  # by type, since lists are long
            odd = [i for i, s in enumerate(samples) if not _is_number(type(s))]
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            return None, (
                f"'samples[{odd[0]}]'{more} is {kind_of(samples[odd[0]])}; give one flat list of numbers (mono)"
            )
        try:
            samples = np.array(samples, dtype=np.float64)
        except OverflowError:
            return None, "'samples' holds a number too large for audio"
    if not isinstance(samples, np.ndarray) or samples.dtype.kind not in "fiu":
        return None, f"'samples' must be a list of numbers, not {kind_of(samples)}"
    if samples.ndim != 1:
        return None, f"'samples' has {samples.ndim} dimensions; give one flat list of numbers (mono)"
    if samples.dtype.kind in "iu":
        # An integer type says what its full scale is.
        samples = samples / float(np.iinfo(samples.dtype).max + 1)
    with np.errstate(over="ignore"):
        return samples.astype(np.float32), None


def _is_number(kind: type) -> bool:
    """Tell whether values of a type are numbers; true and false are not meant as such."""
    return issubclass(kind, int | float | np.number) and kind is not bool


def kind_of(value: Any) -> str:
    """Say what kind of thing a value is, without its content."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str | bytes):
        return "text"
    if isinstance(value, int | float | np.number):
        return "a number with a fraction" if isinstance(value, float) else "a number"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"
