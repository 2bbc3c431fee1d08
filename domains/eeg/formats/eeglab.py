"""EEGLAB sets: MATLAB files of version 5 to 7, with their samples inside or in an .fdt file beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domains.eeg.channels import choose
from domains.eeg.formats.common import Limits, Raw, sample_range
from domains.eeg.formats.matlab import read_matlab
from domains.eeg.recording import Annotation, cut_annotations
from hub.doubts import Doubt
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Source, Span

MAGIC_HDF5 = b"MATLAB 7.3 MAT-file"
_FIELDS = ["data", "datfile", "srate", "nbchan", "pnts", "trials", "chanlocs", "event", "EEG"]


def read_eeglab(source: Source, span: Span | None, limits: Limits, keep_all: bool) -> Raw:
    """Read the EEG channels of a continuous EEGLAB set.

    Raises:
        UnsupportedFormat: It is another MATLAB file, or was cut to epochs.
        InvalidInput: It is damaged, contradicts itself, or its .fdt file is missing.
        TooLarge: What it decompresses to exceeds the limits.
    """
    if source.head(len(MAGIC_HDF5)) == MAGIC_HDF5:
        raise UnsupportedFormat(
            "an EEGLAB set in MATLAB's format 7.3; save it again with EEGLAB's option for files below 2 GB (-v7), or "
            "export it as EDF",
            code="matlab_7_3",
        )
    content = read_matlab(source, _FIELDS, 8 * limits.max_values)
    whole = content.get("EEG")
    fields = whole[0] if isinstance(whole, list) and whole and isinstance(whole[0], dict) else content
    if not {"data", "srate", "nbchan", "pnts"} <= fields.keys():
        raise UnsupportedFormat("a MATLAB file, but no EEGLAB set: it has no data, srate, nbchan and pnts")
    channels, samples, trials = (_whole(fields, key) for key in ("nbchan", "pnts", "trials"))
    if trials > 1:
        raise UnsupportedFormat(
            f"an EEGLAB set cut to {trials:,} epochs; give the continuous recording, and the epochs as spans of a "
            "manifest",
            code="epochs",
        )
    limits.check_channels(channels)
    rate = _scalar(fields, "srate")
    limits.check_rate(rate)
    names = _names(fields, channels)
    rows, notes = choose(names, [True] * channels, keep_all)
    first, last = sample_range(span, samples, rate)
    limits.check_size(len(rows), last - first, rate)
    data = _data(fields, source, channels, samples)
    marks = _events(fields, rate)
    if any(mark.label.lower() == "boundary" for mark in marks):
        notes.append(Doubt("Stretches were cut out of the recording; its pieces are joined.", "joined_parts"))
    return Raw(
        np.array(data[rows, first:last], np.float64) * 1e-6,
        [rate] * len(rows),
        [names[i] for i in rows],
        cut_annotations(marks, first / rate, last / rate),
        notes,
        first / rate,
    )


def _scalar(fields: dict[str, Any], key: str) -> float:
    try:
        value = float(np.asarray(fields.get(key)).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        value = np.nan
    if not np.isfinite(value):
        raise InvalidInput(f"the set's {key} is no number", code="bad_header")
    return value


def _whole(fields: dict[str, Any], key: str) -> int:
    return int(_scalar(fields, key)) if key != "trials" or key in fields else 1


def _names(fields: dict[str, Any], channels: int) -> list[str]:
    """Return the channels' labels, with their type before them where that is none of EEG."""
    places = _structures(fields, "chanlocs")
    if len(places) != channels:
        return [f"EEG {i + 1}" for i in range(channels)]
    names = []
    for i, place in enumerate(places):
        label, kind = _text(place.get("labels")), _text(place.get("type")).upper()
        name = label or f"EEG {i + 1}"
        other = kind in ("EOG", "EMG", "ECG", "MISC", "STIM", "STATUS") and kind not in name.upper()
        names.append(f"{kind} {name}" if other else name)
    return names


def _structures(fields: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = fields.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    """Return text as it is, and a number as people write it."""
    if isinstance(value, np.ndarray):
        return f"{value.reshape(-1)[0]:g}" if value.size == 1 else ""
    return value.strip() if isinstance(value, str) else ""


def _data(fields: dict[str, Any], source: Source, channels: int, samples: int) -> NDArray[Any]:
    """Return ``(channels, samples)`` numbers in microvolts, from the set or the .fdt file that it names."""
    data = fields["data"]
    if isinstance(data, str):
        return _fdt(source, channels, samples)
    if not isinstance(data, np.ndarray) or data.shape != (channels, samples):
        raise InvalidInput(
            f"the set announces {channels} channels of {samples:,} samples, and its data have another shape",
            code="damaged",
        )
    return data


def _fdt(source: Source, channels: int, samples: int) -> NDArray[np.float32]:
    # Only the file of the set's own name: the name inside it may point anywhere.
    path = source.path.with_suffix(".fdt") if source.path is not None else Path("missing")
    if not path.is_file():
        raise InvalidInput(
            "the set keeps its samples in an .fdt file, which is missing: the two belong together and have one name, "
            "in one folder or one ZIP archive",
            code="missing_part",
        )
    if path.stat().st_size != 4 * channels * samples:
        raise InvalidInput(
            f"the .fdt file has {path.stat().st_size:,} bytes; {channels} channels of {samples:,} samples need "
            f"{4 * channels * samples:,}",
            code="truncated",
        )
    return np.memmap(path, "<f4", "r", shape=(channels, samples), order="F")


def _events(fields: dict[str, Any], rate: float) -> list[Annotation]:
    marks = []
    for event in _structures(fields, "event"):
        if "latency" not in event or not np.size(event["latency"]):
            continue
        # Latencies count samples from 1.
        onset = (_scalar(event, "latency") - 1) / rate
        duration = _scalar(event, "duration") / rate if np.size(event.get("duration", [])) else 0.0
        marks.append(Annotation(onset, max(duration, 0.0), _text(event.get("type"))))
    return marks
