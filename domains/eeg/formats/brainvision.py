"""BrainVision: a header (.vhdr), markers (.vmrk) and samples (.eeg), which belong together."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from domains.eeg.formats.common import Limits, Raw
from domains.eeg.formats.mne_raw import quietly, to_raw
from hub.errors import InvalidInput
from hub.reading import Span

MAGIC = re.compile(rb"^(?:\xef\xbb\xbf)?\s*Brain ?Vision (?:Data Exchange|V-Amp Data) Header File", re.IGNORECASE)
OTHER_PARTS = re.compile(rb"^(?:\xef\xbb\xbf)?\s*Brain ?Vision (?:Data Exchange )?Marker File", re.IGNORECASE)
_BYTES = {"INT_16": 2, "UINT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}
_MAX_HEADER = 1 << 20


def read_brainvision(header: Path, span: Span | None, limits: Limits, keep_all: bool) -> Raw:
    """Read a BrainVision recording whose parts lie in one folder.

    Args:
        header: The .vhdr file.
        span: Only this part.
        limits: What it may announce.
        keep_all: Take channels that are no EEG, too.

    Raises:
        InvalidInput: A part is missing, lies elsewhere, is damaged, or does not have the length that the header needs.
        TooLarge: The header announces more than the limits allow.
    """
    if header.stat().st_size > _MAX_HEADER:
        raise InvalidInput("the BrainVision header is larger than any header is", code="damaged")
    fields = _fields(header.read_bytes().decode("utf-8", errors="replace"))
    data = _part(header, fields, "DataFile")
    if data is None:
        raise InvalidInput("the BrainVision header names no file of samples", code="missing_part")
    _part(header, fields, "MarkerFile")
    channels = int(_number(fields, "NumberOfChannels"))
    limits.check_channels(channels)
    interval = _number(fields, "SamplingInterval")  # microseconds
    rate = 1e6 / interval if interval > 0 else 0.0
    limits.check_rate(rate)
    limits.check_file(data.stat().st_size)
    if fields.get("DataFormat", "BINARY").upper() == "BINARY":
        width = _BYTES.get(fields.get("BinaryFormat", "").upper())
        if width is None:
            raise InvalidInput("the BrainVision header states no number format that is known", code="bad_header")
        samples, rest = divmod(data.stat().st_size, channels * width)
        if rest:
            raise InvalidInput(
                f"the samples are cut off: their file has {data.stat().st_size:,} bytes, which {channels} channels of "
                f"{width} bytes do not divide",
                code="truncated",
            )
        asked = samples / rate
        if span is not None:
            asked = max(0.0, min(asked, span.stop or asked) - (span.start or 0.0))
        limits.check_size(channels, asked * rate, rate)
    with quietly("BrainVision") as mne:
        raw = to_raw(mne.io.read_raw_brainvision(header), span, keep_all)
    # MNE-Python puts the marker's type before its description, which other formats do not have.
    marks = [note._replace(label=note.label.partition("/")[2].strip()) for note in raw.annotations]
    return replace(raw, annotations=[note for note in marks if note.label])


def _fields(text: str) -> dict[str, str]:
    """Return what the lines ``Key=value`` say, of the first of each key."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(";"):
            fields.setdefault(key.strip(), value.strip())
    return fields


def _part(header: Path, fields: dict[str, str], key: str) -> Path | None:
    """Return a file that the header names; one outside of its folder is not opened."""
    named = fields.get(key, "").replace("$b", header.stem)
    if not named:
        return None
    if Path(named).name != named or "\\" in named:
        raise InvalidInput(
            f"the BrainVision header names a {key} in another folder; all parts have to lie together", code="bad_header"
        )
    if (found := header.parent / named).is_file():
        return found
    raise InvalidInput(
        f"the BrainVision header's {key} is missing: a .vhdr, its .eeg and its .vmrk belong together, in one folder or "
        "one ZIP archive",
        code="missing_part",
    )


def _number(fields: dict[str, str], key: str) -> float:
    try:
        return float(fields[key])
    except (KeyError, ValueError):
        raise InvalidInput(f"the BrainVision header says no {key}", code="bad_header") from None
