"""A signal from JSON or Python: ``{"signal", "sampling_rate", "channels"?, "unit"?}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domains.eeg.channels import choose
from domains.eeg.formats.common import Limits, Raw
from domains.eeg.formats.sidecar import parse_stated
from hub.errors import InvalidInput

_FIELDS = {"signal", "sampling_rate", "channels", "unit"}


def parse_signal(value: Any, form: str, limits: Limits, keep_all: bool) -> Raw:
    """Return the channels of a plain value.

    Args:
        value: A mapping; the signal is a list of channels, each a list of numbers, or an array.
        form: How it should look, for messages.
        limits: What it may hold.
        keep_all: Take channels that are no EEG, too.

    Raises:
        InvalidInput: Fields are missing, unknown, or hold something else.
        TooLarge: It is longer than the limits allow.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(f"expected {form}", code="bad_form")
    if unknown := len(value.keys() - _FIELDS):
        raise InvalidInput(f"{unknown} unknown fields; expected {form}", code="bad_form")
    stated = parse_stated(value)
    if stated.sampling_rate is None:
        raise InvalidInput("'sampling_rate' is missing: give the rate of 'signal' in Hz", code="bad_form")
    limits.check_rate(stated.sampling_rate)
    if value.get("signal") is None:
        raise InvalidInput(f"'signal' is missing; expected {form}", code="bad_form")
    signal = _array(value["signal"])
    channels, samples = signal.shape
    limits.check_channels(channels)
    limits.check_size(channels, samples, stated.sampling_rate)
    names = stated.channels or [f"EEG {i + 1}" for i in range(channels)]
    if len(names) != channels:
        raise InvalidInput(
            f"'signal' has {channels} rows, and 'channels' {len(names)} names; give one name a row", code="bad_form"
        )
    rows, notes = choose(names, [True] * channels, keep_all)
    picked = signal[rows] * stated.volts
    return Raw(picked, [stated.sampling_rate] * len(rows), [names[i] for i in rows], warnings=notes)


def _array(signal: Any) -> NDArray[np.float64]:
    """Return ``(channels, samples)``; a flat list is one channel."""
    if hasattr(signal, "detach"):  # a torch tensor
        signal = signal.detach().cpu().numpy()
    if isinstance(signal, list | tuple):
        rows = signal if signal and isinstance(signal[0], list | tuple) else [signal]
        if not all(isinstance(row, list | tuple) for row in rows):
            raise InvalidInput("'signal' must be a list of channels, each a list of numbers", code="bad_form")
        if len({len(row) for row in rows}) > 1:
            raise InvalidInput("the rows of 'signal' differ in length; give one row a channel", code="bad_form")
        # By type, since lists are long; true and false are not meant as numbers.
        kinds = {kind for row in rows for kind in set(map(type, row))}
        if not all(issubclass(kind, int | float | np.number) and kind is not bool for kind in kinds):
            raise InvalidInput("'signal' holds something that is no number", code="bad_form")
        try:
            signal = np.array(rows, dtype=np.float64)
        except OverflowError:
            raise InvalidInput("'signal' holds a number too large for a voltage", code="bad_form") from None
    if not isinstance(signal, np.ndarray) or signal.dtype.kind not in "fiu" or signal.ndim not in (1, 2):
        raise InvalidInput("'signal' must be a list of channels, each a list of numbers", code="bad_form")
    if signal.size == 0:
        raise InvalidInput("'signal' is empty", code="empty")
    signal = np.atleast_2d(np.asarray(signal, np.float64))
    if signal.shape[0] > signal.shape[1]:
        raise InvalidInput(
            f"'signal' has {signal.shape[0]:,} rows of {signal.shape[1]:,} numbers: it seems to lie on its side; give "
            "one row a channel",
            code="transposed",
        )
    return signal
