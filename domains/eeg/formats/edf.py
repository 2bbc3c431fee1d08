"""EDF, EDF+ and BDF: data records to volts, and the annotations between them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from domains.eeg.channels import choose
from domains.eeg.formats.common import Limits, Raw, Rows, volts_per
from domains.eeg.formats.edf_header import EdfHeader, EdfSignal, read_header
from domains.eeg.recording import Annotation, cut_annotations
from hub.doubts import Doubt
from hub.errors import InvalidInput
from hub.reading import Source, Span

BLOCK_BYTES = 1 << 24
"""Read at a time, so that a file is never in memory twice."""
_ONSET = re.compile(rb"^([+-]\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?))?\x14")


def read_edf(source: Source, span: Span | None, limits: Limits, keep_all: bool) -> Raw:
    """Read the EEG channels of an EDF, EDF+ or BDF file.

    Only the data records that the span touches are read. Pieces of a discontinuous file (EDF+D) are joined, and the
    onsets of annotations moved with them.

    Raises:
        InvalidInput: The header contradicts itself or the file's length, or no channel is EEG.
        TooLarge: The header announces more than the limits allow.
    """
    header = read_header(source, limits)
    signals = [s for s in header.signals if not s.is_annotation]
    warnings = list(header.warnings)
    rates = [s.samples / header.record_seconds for s in signals]
    limits.check_rate(max(rates))
    # A channel of a few values a second is a sensor, whatever it is called.
    fit = [_volts(s) is not None and rate >= limits.min_sampling_rate for s, rate in zip(signals, rates, strict=True)]
    rows, notes = choose([s.label for s in signals], fit, keep_all)
    chosen, rates = [signals[i] for i in rows], [rates[i] for i in rows]
    if unitless := sum(not s.unit for s in chosen):
        notes.append(Doubt(f"{unitless} channels state no unit; microvolts are assumed.", "unit_assumed"))
    first, last = _record_range(header, span)
    seconds = (last - first) * header.record_seconds
    limits.check_size(len(chosen), seconds * max(rates), max(rates))
    onsets, annotations = _annotations(source, header) if any(s.is_annotation for s in header.signals) else ([], [])
    if header.discontinuous and onsets:
        gaps = int((np.diff(onsets) > header.record_seconds + 1e-3).sum())
        annotations = _joined(annotations, onsets, header.record_seconds)
        text = f"The recording was interrupted ({gaps} times); its pieces are joined."
        warnings += [Doubt(text, "joined_parts")] if gaps else []
    elif onsets:
        annotations = [note._replace(onset=note.onset - onsets[0]) for note in annotations]
    start = first * header.record_seconds
    begin = max(span.start or 0.0, start) if span else start
    end = min(span.stop or math.inf, start + seconds) if span else start + seconds
    values = _cut(_decode(source, header, chosen, first, last), rates, begin - start, end - start)
    names = [s.label for s in chosen]
    return Raw(values, rates, names, cut_annotations(annotations, begin, end), warnings + notes, begin)


def _cut(rows: Rows, rates: list[float], begin: float, end: float) -> Rows:
    """Return the seconds asked for of the whole records that hold them."""
    if isinstance(rows, np.ndarray):
        return rows[:, round(begin * rates[0]) : round(end * rates[0])]
    return [row[round(begin * rate) : round(end * rate)] for row, rate in zip(rows, rates, strict=True)]


def _volts(signal: EdfSignal) -> float | None:
    return volts_per(signal.unit or "uV")


def _record_range(header: EdfHeader, span: Span | None) -> tuple[int, int]:
    if span is None:
        return 0, header.records
    whole = header.records * header.record_seconds
    if (span.start or 0.0) >= whole:
        raise InvalidInput(f"the span starts at {span.start:g} s; the recording lasts {whole:.3f} s", code="empty_span")
    first = int((span.start or 0.0) // header.record_seconds)
    last = header.records if span.stop is None else min(header.records, math.ceil(span.stop / header.record_seconds))
    return first, max(last, first + 1)


def _decode(source: Source, header: EdfHeader, signals: list[EdfSignal], first: int, last: int) -> Rows:
    """Return the signals' values in volts: one array where all rates are the same."""
    lengths = [(last - first) * s.samples for s in signals]
    rows: Rows = np.empty((len(signals), lengths[0])) if len(set(lengths)) == 1 else [np.empty(n) for n in lengths]
    for number, block in _blocks(source, header, first, last):
        for row, signal in zip(rows, signals, strict=True):
            stored = block[:, signal.offset : signal.offset + signal.samples * header.sample_bytes]
            volts = _volts(signal)
            assert volts is not None
            begin = (number - first) * signal.samples
            target = row[begin : begin + len(block) * signal.samples].reshape(len(block), signal.samples)
            np.multiply(_integers(stored, header.sample_bytes), signal.scale * volts, out=target)
            target += signal.zero * volts
    return rows


def _blocks(source: Source, header: EdfHeader, first: int, last: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield stretches of data records: the number of the first, and their bytes ``(records, record_bytes)``."""
    step = max(1, BLOCK_BYTES // header.record_bytes)
    with source.open() as stream:
        stream.seek(header.data_offset + first * header.record_bytes)
        for number in range(first, last, step):
            count = min(step, last - number)
            content = stream.read(count * header.record_bytes)
            yield number, np.frombuffer(content, np.uint8).reshape(count, header.record_bytes)


def _integers(stored: NDArray[np.uint8], sample_bytes: int) -> NDArray[np.integer]:
    """Return little-endian integers of 2 or 3 bytes, ``(records, samples)``."""
    if sample_bytes == 2:
        return np.ascontiguousarray(stored).view("<i2")
    triples = stored.reshape(len(stored), -1, 3)
    padded = np.zeros((*triples.shape[:2], 4), np.uint8)
    padded[..., 1:] = triples
    # Shifting back down repeats the sign.
    return padded.view("<i4")[..., 0] >> 8


def _annotations(source: Source, header: EdfHeader) -> tuple[list[float], list[Annotation]]:
    """Return when each data record begins, and the annotations, both in seconds of the file's clock."""
    places = [s for s in header.signals if s.is_annotation]
    onsets, notes = [], []
    for _, block in _blocks(source, header, 0, header.records):
        for record in block:
            for number, signal in enumerate(places):
                content = record[signal.offset : signal.offset + signal.samples * header.sample_bytes].tobytes()
                for place, item in enumerate(content.split(b"\x00")):
                    if not (match := _ONSET.match(item)):
                        continue
                    onset, duration = float(match[1]), float(match[2] or 0)
                    if place == 0 and number == 0:
                        onsets.append(onset)
                    texts = item[match.end() :].decode("utf-8", errors="replace").split("\x14")
                    notes += [Annotation(onset, duration, text.strip()) for text in texts if text.strip()]
    # Without a clock for every record nothing can be said of gaps.
    return (onsets if len(onsets) == header.records else []), notes


def _joined(annotations: list[Annotation], onsets: list[float], record_seconds: float) -> list[Annotation]:
    """Return annotations with their onsets on the time line of the joined records."""
    records = np.maximum(np.searchsorted(onsets, [note.onset for note in annotations], side="right") - 1, 0)
    return [
        note._replace(onset=k * record_seconds + min(note.onset - onsets[k], record_seconds))
        for note, k in zip(annotations, records.tolist(), strict=True)
    ]
