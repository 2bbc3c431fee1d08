"""EEG in the formats that laboratories, hospitals and headsets write, told apart by content."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from domains.eeg.channels import canonical
from domains.eeg.channels import kind_of as kind_of_channel
from domains.eeg.checks import check_signal, without_repeats
from domains.eeg.formats import archive, arrays, brainvision, eeglab, fif, matlab
from domains.eeg.formats.common import KNOWN, Limits, Raw
from domains.eeg.formats.edf import read_edf
from domains.eeg.formats.edf_header import BDF_MAGIC, EDF_MAGIC
from domains.eeg.formats.sidecar import read_sidecar
from domains.eeg.formats.tables import read_table
from domains.eeg.plain import parse_signal
from domains.eeg.preparation import resample
from domains.eeg.recording import Recording
from hub.doubts import Doubt
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Reader, Sample, Source, Span

HEAD = 4096


@dataclass
class EegReader(Reader):
    """EDF, BDF, FIF, BrainVision, EEGLAB, tables, arrays and ZIP archives of them to one `Recording` a file.

    Attributes:
        max_bytes: Largest file.
        max_channels: Most channels in a file.
        max_seconds: Longest recording, or part of one when a span is asked for.
        max_values: Most samples of all channels together: 2 GiB of float64.
        min_sampling_rate: Lowest rate, Hz.
        max_sampling_rate: Highest rate, Hz.
        min_seconds: Shortest recording.
        assumed_rate: Hz of arrays and tables that do not say theirs, with a warning; ``None`` refuses them. A lone
            column of numbers is refused in any case.
        keep_all: Keep channels that are a voltage but no EEG (EOG, EMG, ECG), too.
    """

    max_bytes: int = 1 << 31
    max_channels: int = 512
    max_seconds: float = 86_400.0
    max_values: int = 1 << 28
    min_sampling_rate: float = 50.0
    max_sampling_rate: float = 50_000.0
    min_seconds: float = 1.0
    assumed_rate: float | None = 250.0
    keep_all: bool = False

    plain_form: ClassVar[str] = (
        'a list of channels, their rate in Hz, names and unit (V, mV, uV, nV): {"signal": [[0.1, ...], ...], '
        '"sampling_rate": 250, "channels": ["Fp1", ...], "unit": "uV"}'
    )

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield the one recording of a file; see `Reader.read`."""
        try:
            # A damaged number may become infinite on its way to volts: the checks look for that.
            with np.errstate(all="ignore"):
                sample = self._sample(self._read(source, span))
            yield sample
        except InvalidInput as error:
            raise error.at(source.name) from None

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the recording of ``{"signal", "sampling_rate", "channels"?, "unit"?}``."""
        try:
            with np.errstate(all="ignore"):
                sample = self._sample(parse_signal(value, self.plain_form, self._limits, self.keep_all))
            yield sample
        except InvalidInput as error:
            raise error.at(name) from None

    def find(self, folder: Path, suffixes: Collection[str]) -> list[Path]:
        """Return the recordings below a folder; label lists and read-me texts are left out."""
        aside = ("readme", "license", "labels", "manifest", "participants", "records")
        return [p for p in super().find(folder, suffixes) if not p.stem.lower().startswith(aside)]

    @property
    def _limits(self) -> Limits:
        return Limits(
            self.max_bytes,
            self.max_channels,
            self.max_seconds,
            self.max_values,
            self.min_sampling_rate,
            self.max_sampling_rate,
        )

    def _read(self, source: Source, span: Span | None) -> Raw:
        if source.path is not None and source.path.is_dir():
            raise UnsupportedFormat(f"a folder, where one recording was expected; {KNOWN} are read")
        limits, keep_all = self._limits, self.keep_all
        limits.check_file(source.size)
        head = source.head(HEAD)
        if head.startswith((EDF_MAGIC, BDF_MAGIC)):
            _check_suffix(source, head)
            return read_edf(source, span, limits, keep_all)
        if head.startswith(fif.MAGIC):
            return fif.read_fif(source, span, limits, keep_all)
        if head.startswith((matlab.MAGIC, eeglab.MAGIC_HDF5)):
            return eeglab.read_eeglab(source, span, limits, keep_all)
        if head.startswith(archive.MAGIC):
            with tempfile.TemporaryDirectory(prefix="fmhub-eeg-") as folder:
                inner = archive.unpack(source, Path(folder), limits)
                member = Source.from_path(inner, inner.name)
                if member.head(4) in archive.MAGIC:
                    raise UnsupportedFormat("a ZIP archive in a ZIP archive", code="nested")
                return self._read(member, span)
        if brainvision.MAGIC.match(head):
            return self._read_brainvision(source, span)
        stated = replace(read_sidecar(source), assumed_rate=self.assumed_rate)
        if head.startswith(arrays.MAGIC):
            return arrays.read_npy(source, span, limits, keep_all, stated)
        if (reason := _why_not(head, source.suffix)) is not None:
            raise reason
        return read_table(source, span, limits, keep_all, stated)

    def _read_brainvision(self, source: Source, span: Span | None) -> Raw:
        if source.path is None:
            raise InvalidInput(
                "a BrainVision header alone: its samples and markers are in files beside it; send the .vhdr, .eeg and "
                ".vmrk together as one ZIP archive",
                code="missing_part",
            )
        return brainvision.read_brainvision(source.path, span, self._limits, self.keep_all)

    def _sample(self, raw: Raw) -> Sample:
        """Bring all rows to one rate, check them, and wrap them with what a user should know."""
        rate = max(raw.rates)
        warnings = list(raw.warnings)
        if isinstance(raw.rows, np.ndarray):
            signal = raw.rows
        else:
            slower = sum(r != rate for r in raw.rates)
            text = f"Channels sampled more slowly than the others ({slower}) were resampled to {rate:g} Hz."
            warnings.append(Doubt(text, "resampled_part"))
            length = max(row.shape[0] for row in raw.rows)
            signal = np.zeros((len(raw.rows), length))
            for target, row, own in zip(signal, raw.rows, raw.rates, strict=True):
                brought = resample(row[None], own, rate)[0][:length]
                target[: len(brought)] = brought
        recording = Recording(
            signal=signal,
            sampling_rate=rate,
            channels=[canonical(name) for name in raw.names],
            original_names=list(raw.names),
            kinds=[kind_of_channel(name) for name in raw.names],
            annotations=list(raw.annotations),
            start=raw.start,
        )
        if recording.seconds < self.min_seconds:
            raise InvalidInput(
                f"the recording lasts {recording.seconds:.3g} s; at least {self.min_seconds:g} s are needed",
                code="too_short",
            )
        recording, notes = without_repeats(recording)
        warnings += [*notes, *check_signal(recording)]
        facts = {
            "seconds": round(recording.seconds, 4),
            "sampling_rate": rate,
            "channels": len(recording.channels),
            "annotations": len(recording.annotations),
        }
        return Sample(data=recording, warnings=tuple(warnings), metadata=facts)


def _check_suffix(source: Source, head: bytes) -> None:
    """Raise UnsupportedFormat where EDF and BDF were mistaken for each other: someone else reads noise from that."""
    found, other = (".edf", ".bdf") if head.startswith(EDF_MAGIC) else (".bdf", ".edf")
    if source.suffix == other:
        raise UnsupportedFormat(
            f"the name ends in {other}, and the content is {found[1:].upper()}: rename it to {found}, so that no "
            "program reads it as noise",
            code="wrong_suffix",
        )


def _why_not(head: bytes, suffix: str) -> InvalidInput | None:
    """Return why content that has no magic bytes of a known format is not read as a table, if it is not."""
    if suffix in (".edf", ".bdf"):
        return InvalidInput(
            f"the content is no {suffix[1:].upper()}: its first eight bytes are not those of the format", code="damaged"
        )
    if brainvision.OTHER_PARTS.match(head):
        return UnsupportedFormat("the markers of a BrainVision recording; give its .vhdr", code="part_of_another")
    if b"\x00" in head:
        if suffix in (".eeg", ".fdt"):
            return UnsupportedFormat(
                "samples without their header; give the .vhdr (BrainVision) or .set (EEGLAB) beside them",
                code="part_of_another",
            )
        return UnsupportedFormat(f"none of the formats that are read: {KNOWN}")
    if head.lstrip().startswith((b"{", b"[", b"<")):
        return UnsupportedFormat(f"JSON or markup, and no table of numbers; {KNOWN} are read", code="no_table")
    return None
