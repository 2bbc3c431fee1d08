"""MNE's FIF: the tags are walked and counted before MNE-Python reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from domains.eeg.formats.common import Limits, Raw
from domains.eeg.formats.mne_raw import quietly, to_raw
from hub.errors import InvalidInput, TooLarge
from hub.reading import Source, Span

MAGIC = struct.pack(">iIi", 100, 31, 20)
"""A FIF file begins with its identity: kind FIFF_FILE_ID, type id-struct, 20 bytes."""
_CHANNELS, _RATE, _DATA, _SKIP = 200, 201, 300, 301
_VALUE_BYTES = {2: 2, 3: 4, 4: 4, 5: 8, 16: 2}
"""Of the types that raw data come in: short, int, float, double, packed short."""
_MAX_TAGS = 1_000_000
_LAST = -1


def read_fif(source: Source, span: Span | None, limits: Limits, keep_all: bool) -> Raw:
    """Read the EEG channels of a raw FIF file.

    Raises:
        InvalidInput: It is damaged, cut off, or holds no raw recording.
        TooLarge: It announces more than the limits allow.
    """
    channels, rate, samples = _survey(source)
    limits.check_channels(channels)
    limits.check_rate(rate)
    limits.check_size(channels, samples, rate)
    # From an open stream, so that a file that names others as its continuation cannot have them opened.
    with source.open() as stream, quietly("FIF") as mne:
        recording = mne.io.read_raw_fif(stream, on_split_missing="ignore", allow_maxshield=True, preload=True)
        return to_raw(recording, span, keep_all)


def _survey(source: Source) -> tuple[int, float, int]:
    """Return the number of channels, the rate in Hz and the number of samples that the tags announce."""
    channels, rate, values = 0, 0.0, 0
    with source.open() as stream:
        for kind, form, size, place in _tags(stream, source.size):
            if kind in (_CHANNELS, _RATE) and size == 4:
                stream.seek(place)
                content = stream.read(4)
                if kind == _CHANNELS:
                    channels = max(channels, struct.unpack(">i", content)[0])
                else:
                    rate = struct.unpack(">f", content)[0]
            elif kind == _DATA:
                width = _VALUE_BYTES.get(form, 0)
                if not width or size % width:
                    raise InvalidInput("the FIF file is damaged: a data buffer of no known type", code="damaged")
                values += size // width
            elif kind == _SKIP:
                raise InvalidInput(
                    "the FIF file leaves stretches of the recording out; save each piece as a file of its own",
                    code="discontinuous",
                )
    if channels < 1 or not rate > 0 or not values:
        raise InvalidInput("the FIF file holds no raw recording: averages and epochs are not read", code="no_recording")
    return channels, rate, values // channels


def _tags(stream: BinaryIO, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield kind, type, size and place of the content of every tag.

    Raises:
        InvalidInput: The chain of tags leaves the file, runs in a circle, or has no end.
        TooLarge: There are more tags than any recording has.
    """
    place, count = 0, 0
    while place != size:
        stream.seek(place)
        head = stream.read(16)
        if len(head) < 16:
            raise InvalidInput("the FIF file is cut off", code="truncated")
        kind, form, length, following = struct.unpack(">iIii", head)
        end = place + 16 + length
        if length < 0 or end > size:
            raise InvalidInput("the FIF file is cut off: a tag reaches past its end", code="truncated")
        yield kind, form, length, place + 16
        if following == _LAST:
            return
        if following and following < end:
            raise InvalidInput("the FIF file is damaged: its chain of tags turns back", code="damaged")
        place = following or end
        count += 1
        if count > _MAX_TAGS:
            raise TooLarge(f"the FIF file has more than {_MAX_TAGS:,} tags")
