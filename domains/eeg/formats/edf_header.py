"""The headers of EDF, EDF+ and BDF, checked field by field before anything is allocated.

The layout is that of Kemp et al. 1992 (EDF), Kemp and Olivan 2003 (EDF+) and BioSemi's BDF page. The patient and
recording fields (bytes 8 to 168) are skipped: who was recorded never leaves the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from domains.eeg.channels import canonical, shown
from domains.eeg.formats.common import Limits
from hub.doubts import Doubt
from hub.errors import InvalidInput, TooLarge
from hub.reading import Source

EDF_MAGIC = b"0       "
BDF_MAGIC = b"\xffBIOSEMI"
_FIXED = 256
_SIGNAL = 256
_WIDTHS = {
    "label": 16, "transducer": 80, "unit": 8, "physical_min": 8, "physical_max": 8, "digital_min": 8,
    "digital_max": 8, "prefiltering": 80, "samples": 8, "reserved": 32,
}  # fmt: skip


@dataclass(frozen=True)
class EdfSignal:
    """One signal's header.

    Attributes:
        label: As the file has it.
        unit: As the file has it.
        offset: Bytes of a data record before it.
        samples: In one data record.
        scale: Physical units in one digital unit.
        zero: Physical value of the digital 0.
        is_annotation: Whether it holds text.
    """

    label: str
    unit: str
    offset: int
    samples: int
    scale: float
    zero: float
    is_annotation: bool


@dataclass(frozen=True)
class EdfHeader:
    """A whole header.

    Attributes:
        name: ``EDF`` or ``BDF``.
        sample_bytes: 2 or 3.
        data_offset: Bytes before the first data record.
        records: Data records in the file.
        record_seconds: Duration of one.
        record_bytes: Size of one.
        signals: In the order of the file.
        discontinuous: Whether time may be missing between records (EDF+D).
        warnings: What a user should know, one sentence each.
    """

    name: str
    sample_bytes: int
    data_offset: int
    records: int
    record_seconds: float
    record_bytes: int
    signals: list[EdfSignal] = field(repr=False)
    discontinuous: bool
    warnings: list[str]


def read_header(source: Source, limits: Limits) -> EdfHeader:
    """Read and check the header of an EDF or BDF file against itself, the limits and the size of the file.

    Raises:
        InvalidInput: A field holds no number, or one that cannot be; or the file's length is not what they announce.
        TooLarge: They announce more than the limits allow.
    """
    name, width = ("BDF", 3) if source.head(8) == BDF_MAGIC else ("EDF", 2)
    fixed = source.head(_FIXED)
    if len(fixed) < _FIXED:
        raise InvalidInput(
            f"the {name} header is cut off: {len(fixed)} of its first {_FIXED} bytes are there", code="truncated"
        )
    announced = _integer(fixed[252:256], "the number of signals")
    if announced < 1:
        raise InvalidInput(f"the header announces {announced} signals", code="bad_header")
    if announced > limits.max_channels:
        raise TooLarge(f"the header announces {announced:,} signals; at most {limits.max_channels} are read")
    header_bytes = _FIXED + announced * _SIGNAL
    table = source.head(header_bytes)[_FIXED:]
    if len(table) < announced * _SIGNAL:
        raise InvalidInput(
            f"the {name} header is cut off: it announces {announced} signals, {header_bytes:,} bytes, and the file has "
            f"{source.size:,}",
            code="truncated",
        )
    if (stated := _integer(fixed[184:192], "the number of bytes in the header")) != header_bytes:
        raise InvalidInput(
            f"the header says that it has {stated:,} bytes; {announced} signals need {header_bytes:,}",
            code="bad_header",
        )
    seconds = _number(fixed[244:252], "the duration of a data record")
    reserved = fixed[192:236].decode("latin-1")
    signals = _signals(table, announced, width, reserved.startswith(("EDF+", "BDF+")))
    sampled = [s for s in signals if not s.is_annotation]
    if not sampled:
        raise InvalidInput("the file holds annotations only, and no signal", code="no_channel")
    if not 0 < seconds < math.inf:
        raise InvalidInput(
            f"a data record lasts {seconds:g} s by the header; signals need a duration above 0", code="bad_header"
        )
    record_bytes = sum(s.samples for s in signals) * width
    records, warnings = _records(fixed[236:244], source.size - header_bytes, record_bytes, name)
    return EdfHeader(
        name, width, header_bytes, records, seconds, record_bytes, signals, reserved[3:5] == "+D", warnings
    )


def _signals(table: bytes, count: int, width: int, plus: bool) -> list[EdfSignal]:
    columns: dict[str, list[bytes]] = {}
    place = 0
    for column, size in _WIDTHS.items():
        columns[column] = [table[place + i * size : place + (i + 1) * size] for i in range(count)]
        place += count * size
    labels = [_text(label) for label in columns["label"]]
    names = [canonical(label) for label in labels]
    signals, offset = [], 0
    for i, label in enumerate(labels):
        where = f"of {shown(names, i)}"
        samples = _integer(columns["samples"][i], f"the number of samples in a record {where}")
        if samples < 1:
            raise InvalidInput(f"the number of samples in a record {where} is {samples}", code="bad_header")
        is_annotation = plus and label in ("EDF Annotations", "BDF Annotations")
        scale, zero = (1.0, 0.0) if is_annotation else _scale(columns, i, where)
        signals.append(EdfSignal(label, _text(columns["unit"][i]), offset, samples, scale, zero, is_annotation))
        offset += samples * width
    return signals


def _scale(columns: dict[str, list[bytes]], i: int, where: str) -> tuple[float, float]:
    """Return a signal's physical units in a digital one, and the physical value of digital 0."""
    low, high = (_number(columns[f"physical_{end}"][i], f"the physical range {where}") for end in ("min", "max"))
    bottom, top = (_number(columns[f"digital_{end}"][i], f"the digital range {where}") for end in ("min", "max"))
    if low == high or bottom >= top:
        kind, ends = ("physical", (low, high)) if low == high else ("digital", (bottom, top))
        raise InvalidInput(
            f"the {kind} range {where} goes from {ends[0]:g} to {ends[1]:g}, so its values mean nothing",
            code="bad_header",
        )
    scale = (high - low) / (top - bottom)
    return scale, low - bottom * scale


def _records(stated: bytes, present: int, record_bytes: int, name: str) -> tuple[int, list[str]]:
    """Return how many data records there are: what the header says and the file's length have to agree."""
    records = _integer(stated, "the number of data records")
    whole, rest = divmod(present, record_bytes)
    if records == -1 and whole:
        left = f" An unfinished record of {rest:,} bytes at its end is left out." if rest else ""
        text = f"The {name} file was never closed: its header gives no length, {whole} records are there.{left}"
        return whole, [Doubt(text, "truncated")]
    if records < 1:
        raise InvalidInput(
            f"the header announces {records} data records; the file has room for {whole}", code="bad_header"
        )
    if present != records * record_bytes:
        difference = present - records * record_bytes
        how = f"{-difference:,} bytes too short" if difference < 0 else f"{difference:,} bytes too long"
        raise InvalidInput(
            f"the file is {how}: its header announces {records:,} data records of {record_bytes:,} bytes; it was cut "
            "off, or changed as text on its way (line ends)",
            code="truncated",
        )
    return records, []


def _text(field_bytes: bytes) -> str:
    return field_bytes.decode("latin-1").strip(" \x00")


def _number(field_bytes: bytes, what: str) -> float:
    # Some writers use a decimal comma.
    text = _text(field_bytes).replace(",", ".")
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput(f"{what} is no number in the header: the file is damaged", code="bad_header")
    return value


def _integer(field_bytes: bytes, what: str) -> int:
    value = _number(field_bytes, what)
    if value != int(value):
        raise InvalidInput(f"{what} is no whole number in the header: the file is damaged", code="bad_header")
    return int(value)
