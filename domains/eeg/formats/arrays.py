"""NumPy ``.npy`` arrays: channels by samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib import format as npy

from domains.eeg.channels import choose
from domains.eeg.formats.common import Limits, Raw, sample_range
from domains.eeg.formats.sidecar import Stated
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Source, Span

MAGIC = b"\x93NUMPY"


def read_npy(source: Source, span: Span | None, limits: Limits, keep_all: bool, stated: Stated) -> Raw:
    """Read an array ``(channels, samples)``, or ``(samples,)`` of one channel, of any real number type.

    Args:
        source: The file.
        span: Only this part.
        limits: What it may announce.
        keep_all: Take channels that are no EEG, too.
        stated: Rate, names and unit.

    Raises:
        UnsupportedFormat: It holds Python objects, complex or logical values, or has another shape.
        TooLarge: Its header announces more than the limits allow.
        InvalidInput: It is cut off, or lies on its side.
    """
    with source.open() as stream:
        try:
            version = npy.read_magic(stream)
            reader: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, kind = reader(stream)
        except Exception:  # the header is a Python literal, whose parser raises what it likes
            raise InvalidInput("the header of the .npy file is damaged", code="damaged") from None
        place = stream.tell()
    _check_kind(shape, kind)
    channels, samples = (1, *shape) if len(shape) == 1 else shape
    _check_shape(channels, samples, stated)
    limits.check_channels(channels)
    there, announced = source.size - place, math.prod(shape) * kind.itemsize
    if there != announced:
        raise InvalidInput(
            f"the file is damaged or cut off: its header announces {announced:,} bytes of data, {there:,} are there",
            code="truncated",
        )
    rate, warnings = stated.rate()
    limits.check_rate(rate)
    names = stated.channels or [f"EEG {i + 1}" for i in range(channels)]
    rows, notes = choose(names, [True] * channels, keep_all)
    first, last = sample_range(span, samples, rate)
    limits.check_size(len(rows), last - first, rate)
    order: Any = "F" if fortran else "C"
    if source.content is not None:
        array = np.frombuffer(source.content, kind, channels * samples, place).reshape((channels, samples), order=order)
    else:
        assert source.path is not None
        array = np.memmap(source.path, kind, "r", place, (channels, samples), order)
    values = np.array(array[rows, first:last], dtype=np.float64)
    values *= stated.volts
    return Raw(values, [rate] * len(rows), [names[i] for i in rows], warnings=warnings + notes, start=first / rate)


def _check_kind(shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
    if kind.hasobject:
        raise UnsupportedFormat(
            "an .npy file of Python objects, which would have to be unpickled; save numbers (float32)",
            code="object_array",
        )
    if kind.kind not in "fiu" or len(shape) not in (1, 2):
        described = " x ".join(map(str, shape)) or "a single value"
        what = {"c": "complex numbers", "b": "true and false", "f": "numbers", "i": "numbers", "u": "numbers"}
        raise UnsupportedFormat(
            f"an array {described} of {what.get(kind.kind, 'no numbers')}; EEG is (channels, samples) of real numbers",
            code="bad_shape",
        )
    if not math.prod(shape):
        raise InvalidInput(f"the array is empty: {' x '.join(map(str, shape))}", code="empty")


def _check_shape(channels: int, samples: int, stated: Stated) -> None:
    if stated.channels is not None and len(stated.channels) != channels:
        raise InvalidInput(
            f"the array has {channels:,} rows, and {len(stated.channels)} channels are named; give (channels, samples)",
            code="bad_shape",
        )
    if channels > samples:
        raise InvalidInput(
            f"the array has {channels:,} channels of {samples:,} samples each: it seems to lie on its side; give "
            "(channels, samples)",
            code="transposed",
        )
