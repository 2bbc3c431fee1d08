"""MNE-Python, kept quiet, and what it has read as `Raw`."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from domains.eeg.channels import choose
from domains.eeg.formats.common import Raw, sample_range
from domains.eeg.recording import Annotation, cut_annotations
from hub.errors import InvalidInput
from hub.reading import Span

_ONE_AT_A_TIME = threading.Lock()
_VOLTAGE = {"eeg", "eog", "emg", "ecg", "bio", "seeg", "ecog", "dbs"}
"""Kinds of channels that MNE-Python keeps in volts."""


@contextmanager
def quietly(format_name: str) -> Iterator[Any]:
    """Yield the module ``mne``; whatever it raises inside becomes InvalidInput.

    What it logs and warns of quotes headers, and with them the patient, so none of it is let out. Both switches are of
    the whole process, hence one thread at a time.
    """
    import mne

    with _ONE_AT_A_TIME, warnings.catch_warnings(), mne.use_log_level("CRITICAL"):
        warnings.simplefilter("ignore")
        try:
            yield mne
        except InvalidInput:
            raise
        except Exception:  # it raises whatever a damaged header leads to, and quotes the header
            raise InvalidInput(f"the {format_name} file is damaged and cannot be read", code="damaged") from None


def to_raw(recording: Any, span: Span | None, keep_all: bool) -> Raw:
    """Return the channels of an ``mne.io.BaseRaw`` that are wanted, in volts."""
    kinds = recording.get_channel_types()
    names = [_named(name, kind) for name, kind in zip(recording.ch_names, kinds, strict=True)]
    rows, notes = choose(names, [kind in _VOLTAGE for kind in kinds], keep_all)
    rate = float(recording.info["sfreq"])
    first, last = sample_range(span, recording.n_times, rate)
    values = np.asarray(recording.get_data(picks=rows, start=first, stop=last), np.float64)
    begin = float(recording.first_time) if recording.info["meas_date"] is not None else 0.0
    marks = [
        Annotation(float(onset) - begin, float(duration), str(label))
        for onset, duration, label in zip(
            recording.annotations.onset,
            recording.annotations.duration,
            recording.annotations.description,
            strict=True,
        )
    ]
    return Raw(
        values,
        [rate] * len(rows),
        [recording.ch_names[i] for i in rows],
        cut_annotations(marks, first / rate, last / rate),
        notes,
        first / rate,
    )


def _named(name: str, kind: str) -> str:
    """Return a name that says the kind, where the file says that a channel is none of EEG."""
    return name if kind == "eeg" or kind.upper() in name.upper() else f"{kind.upper()} {name}"
