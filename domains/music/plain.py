"""Lists and arrays of samples, from JSON or Python, checked without repeating their content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hub.errors import InvalidInput

FORM = '{"samples": [0.0, 0.1, ...], "sampling_rate": 24000}, or one list for each channel'


def parse_plain(value: Any) -> tuple[np.ndarray, int]:
    """Return ``(channels, samples)`` float32 and the rate in Hz; how many of either is not judged here.

    Args:
        value: A mapping with ``samples`` and ``sampling_rate``. Lists hold numbers with full scale 1; the type of a
            signed integer array states its full scale.

    Raises:
        InvalidInput: Fields are missing, unknown, or hold something else.
    """
    if not isinstance(value, Mapping) or value.keys() != {"samples", "sampling_rate"}:
        raise InvalidInput(f"expected {FORM}, and no other fields", code="bad_form")
    rate = value["sampling_rate"]
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating) or rate != rate // 1:
        raise InvalidInput("'sampling_rate' must be a whole number of Hz", code="bad_form")
    return _channels_first(_array(value["samples"])), int(rate)


def _array(samples: Any) -> np.ndarray:
    """Return samples as an array of floats."""
    if hasattr(samples, "detach"):  # a torch tensor
        samples = samples.detach().cpu().numpy()
    if isinstance(samples, list | tuple):
        try:
            array = np.asarray(samples)
        except (ValueError, OverflowError):
            raise InvalidInput(
                "'samples' has rows of different lengths, or numbers too large", code="bad_form"
            ) from None
        if array.dtype.kind in "iu":  # JSON writes 1.0 as 1
            array = array.astype(np.float64)
    else:
        array = samples
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fi":
        raise InvalidInput(
            "'samples' must be a list of numbers, or an array of real or signed integer type", code="bad_form"
        )
    if array.dtype.kind == "i":
        array = array / (float(np.iinfo(array.dtype).max) + 1)
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _channels_first(array: np.ndarray) -> np.ndarray:
    """Return ``(channels, samples)``, or say which way round it has to be."""
    if array.ndim == 1:
        return array[np.newaxis]
    if array.ndim != 2:
        raise InvalidInput(
            f"'samples' has {array.ndim} dimensions; give (samples,) or (channels, samples)", code="bad_form"
        )
    if array.shape[0] > array.shape[1] > 0:
        raise InvalidInput(
            f"'samples' has the shape {array.shape}, more channels than samples; give (channels, samples)",
            code="bad_form",
        )
    return array
