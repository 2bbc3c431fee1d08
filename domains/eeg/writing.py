"""EDF+ and BDF files, written: for the example recordings and for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from domains.eeg.recording import Recording

_RECORD_TEXT = 128
"""Bytes that every data record keeps for annotations."""


def edf_bytes(recording: Recording, physical_range: float = 500.0, patient: str = "X X X X") -> bytes:
    """Return a recording as an EDF+ file of one-second data records, with its annotations; whole seconds only.

    Args:
        recording: Its rate has to be whole.
        physical_range: Microvolts; larger values are cut to it.
        patient: The header's patient field.
    """
    return _file(recording, physical_range, patient, 2)


def bdf_bytes(recording: Recording, physical_range: float = 262_144.0, patient: str = "X X X X") -> bytes:
    """Return a recording as a BDF file, in steps of 1/32 microvolt as BioSemi's, without annotations."""
    return _file(recording, physical_range, patient, 3)


def _file(recording: Recording, physical_range: float, patient: str, width: int) -> bytes:
    rate = round(recording.sampling_rate)
    channels, records = len(recording.channels), recording.signal.shape[1] // rate
    top = (1 << (8 * width - 1)) - 1
    scaled = recording.microvolts[:, : records * rate] / physical_range * top
    stored = np.clip(np.round(scaled), -top, top).astype("<i4").reshape(channels, records, rate, 1)
    samples = stored.view(np.uint8)[..., :width].swapaxes(0, 1).reshape(records, -1)
    texts = _texts(recording, records) if width == 2 else np.zeros((records, 0), np.uint8)
    names = [name.encode() for name in recording.channels]
    counts = [rate] * channels
    if width == 2:
        names, counts = [*names, b"EDF Annotations"], [*counts, _RECORD_TEXT // 2]
    limits = [(-physical_range, physical_range, -top, top)] * channels + [(-1, 1, -top - 1, top)] * (width == 2)
    header = (b"0" if width == 2 else b"\xffBIOSEMI").ljust(8)
    header += _column([patient.encode(), b"Startdate X X X X"], 80) + b"01.01.8500.00.00"
    header += _column([str(256 * (len(names) + 1)).encode()], 8)
    header += _column([b"EDF+C" if width == 2 else b"24BIT"], 44)
    header += _column([str(n).encode() for n in (records, 1)], 8) + _column([str(len(names)).encode()], 4)
    header += _column(names, 16) + _column([b"simulated"] * len(names), 80)
    header += _column([b"uV"] * channels + [b""] * (len(names) - channels), 8)
    for place in range(4):
        header += _column([f"{ends[place]:.8g}".encode() for ends in limits], 8)
    header += _column([b""] * len(names), 80) + _column([str(n).encode() for n in counts], 8)
    header += _column([b""] * len(names), 32)
    return header + np.concatenate([samples, texts], axis=1).tobytes()


def _column(values: Sequence[bytes], width: int) -> bytes:
    return b"".join(value[:width].ljust(width) for value in values)


def _texts(recording: Recording, records: int) -> NDArray[np.uint8]:
    """Return each data record's own time and the annotations that begin in it, ``(records, bytes)``."""
    lines = []
    for record in range(records):
        text = f"+{record}\x14\x14\x00"
        for note in recording.annotations:
            if record <= note.onset < record + 1:
                text += f"+{note.onset:g}\x15{note.duration:g}\x14{note.label}\x14\x00"
        lines.append(text.encode()[:_RECORD_TEXT].ljust(_RECORD_TEXT, b"\x00"))
    return np.frombuffer(b"".join(lines), np.uint8).reshape(records, _RECORD_TEXT)
