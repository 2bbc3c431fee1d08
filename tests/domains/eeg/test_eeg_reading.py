from __future__ import annotations

import csv
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from domains.eeg.reading import EegReader
from domains.eeg.recording import Recording
from domains.eeg.samples import MUSE, simulate
from domains.eeg.writing import edf_bytes
from hub.errors import InvalidInput, TooLarge
from hub.reading import Sample, Source, Span

WHOLE = simulate()
TEXT = simulate(("Pz",), 173.61, seed=2)
STEP = 500 / 32767
"""Microvolts between two digital values of the written EDF."""


def one(source: Path | Source, span: Span | None = None, **options: object) -> Sample:
    source = source if isinstance(source, Source) else Source.from_path(source)
    (sample,) = EegReader(**options).read(source, span)
    return sample


def from_bytes(content: bytes, name: str = "x.edf", **options: object) -> Sample:
    return one(Source.from_bytes(content, name), **options)


def test_every_format_gives_the_same_volts_names_and_marks(eeg_files: dict[str, Path]) -> None:
    tolerances = {".edf": STEP / 2, ".bdf": 1 / 64, ".vhdr": 1e-4, ".set": 1e-4, ".fif": 1e-4, ".npy": 1e-4}
    for suffix, tolerance in tolerances.items():
        sample = one(eeg_files[suffix])
        recording: Recording = sample.data
        assert recording.signal.dtype == np.float64 and recording.sampling_rate == 250
        np.testing.assert_allclose(
            recording.microvolts, WHOLE.microvolts, rtol=0, atol=tolerance + 1e-6, err_msg=suffix
        )
        assert recording.channels == WHOLE.channels and set(recording.kinds) == {"eeg"}, suffix
        if suffix not in (".bdf", ".npy"):
            assert recording.annotations == WHOLE.annotations, suffix
        assert not sample.warnings
    muse = one(eeg_files[".csv"]).data
    np.testing.assert_allclose(muse.microvolts, simulate(MUSE, 256.0, seed=1).microvolts, atol=6e-4)
    assert muse.sampling_rate == 256 and [note.label for note in muse.annotations] == ["1", "2"]
    text = one(eeg_files[".txt"]).data
    assert text.sampling_rate == 173.61 and text.channels == ["EEG 1"]
    np.testing.assert_allclose(text.microvolts, TEXT.microvolts, atol=0.5)


@pytest.mark.parametrize("span", [Span(2.5, 7.25), Span(None, 3.0), Span(20.125, None), Span(10.0, 99.0)])
def test_a_span_is_what_cutting_the_whole_gives(eeg_files: dict[str, Path], span: Span) -> None:
    for suffix, path in eeg_files.items():
        whole, part = one(path).data, one(path, span).data
        first = round((span.start or 0) * whole.sampling_rate)
        last = min(whole.signal.shape[1], round((span.stop or 1e9) * whole.sampling_rate))
        np.testing.assert_array_equal(part.signal, whole.signal[:, first:last], err_msg=suffix)
        assert part.start == pytest.approx(span.start or 0.0, abs=0.01)
        expected = whole.crop(first, last).annotations
        assert [n.label for n in part.annotations] == [n.label for n in expected], suffix
        np.testing.assert_allclose([n.onset for n in part.annotations], [n.onset for n in expected], atol=0.01)
    with pytest.raises(InvalidInput, match="the recording lasts 24"):
        one(eeg_files[".edf"], Span(30.0, 40.0))


def test_bytes_and_archives_give_what_files_give(eeg_files: dict[str, Path], tmp_path: Path) -> None:
    for suffix in (".edf", ".bdf", ".set", ".fif", ".csv"):
        path = eeg_files[suffix]
        uploaded = one(Source.from_bytes(path.read_bytes(), path.name)).data
        np.testing.assert_array_equal(uploaded.signal, one(path).data.signal)
    parts = [".vhdr", ".vmrk", ".eeg"]
    for name, members in {"triplet.zip": parts, "array.zip": [".npy", ".json"], "one.zip": [".edf"]}.items():
        main = eeg_files[members[0]]
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for suffix in members:
                archive.write(main.with_suffix(suffix), f"folder/{main.stem}{suffix}")
        content = (tmp_path / name).read_bytes()
        np.testing.assert_array_equal(from_bytes(content, name).data.signal, one(main).data.signal)
    with pytest.raises(InvalidInput, match="one ZIP archive"):
        from_bytes(eeg_files[".vhdr"].read_bytes(), "x.vhdr")


def test_limits_hold_before_anything_is_allocated() -> None:
    content = edf_bytes(WHOLE)
    tracemalloc.start()
    for limits, text in (({"max_values": 10_000}, "8 channels for 24 s"), ({"max_seconds": 10.0}, "at most 10 s")):
        with pytest.raises(TooLarge, match=text):
            from_bytes(content, **limits)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()
    part = one(Source.from_bytes(content, "x.edf"), Span(5.0, 9.0), max_seconds=10.0)
    assert part.data.seconds == 4
    with pytest.raises(InvalidInput, match="at least 30 s"):
        from_bytes(content, min_seconds=30.0)


def test_the_plain_form() -> None:
    value = {"signal": WHOLE.microvolts.tolist(), "sampling_rate": 250, "channels": WHOLE.channels, "unit": "uV"}
    (sample,) = EegReader().parse(value)
    np.testing.assert_allclose(sample.data.signal, WHOLE.signal, rtol=1e-12)
    (volts,) = EegReader().parse({"signal": WHOLE.signal, "sampling_rate": 250.0, "unit": "V"})
    np.testing.assert_array_equal(volts.data.signal, WHOLE.signal)
    (lone,) = EegReader().parse({"signal": WHOLE.microvolts[0].tolist(), "sampling_rate": 173.61})
    assert lone.data.signal.shape[0] == 1
    changes: dict[str, dict[str, object]] = {
        "unknown fields": {"gain": 3},
        "'sampling_rate' is missing": {"sampling_rate": None},
        "number of Hz": {"sampling_rate": True},
        "5 Hz; 50 to": {"sampling_rate": 5},
        "the sampling rate must": {"sampling_rate": 10**400},
        "differ in length": {"signal": [[1.0, 2.0], [1.0]]},
        "no number": {"signal": [[1.0, "2"], [1.0, 2.0]]},
        "'signal' is empty": {"signal": []},
        "on its side": {"signal": WHOLE.microvolts.T.tolist()},
        "unit must be": {"unit": "apples"},
        "one name a row": {"channels": ["Fp1"]},
        "list of names": {"channels": "Fp1"},
        "not finite at 0.016 s": {"signal": [[0.0, 1.0, 2.0, 1.0, float("nan")] + [1.0] * 300], "channels": ["Cz"]},
    }
    for message, change in changes.items():
        with pytest.raises(InvalidInput, match=message):
            list(EegReader().parse({**value, **change}, "input[0]"))
    with pytest.raises(InvalidInput, match="expected a list of channels"):
        list(EegReader().parse([1, 2, 3]))


def test_doubts_about_an_accepted_signal() -> None:
    flat = WHOLE.signal.copy()
    flat[2] = 3e-5
    cases: list[tuple[np.ndarray, str]] = [
        (flat, "1 of 8 channels are flat (constant): C3"),
        (np.full_like(flat, 1e-5), "one constant value"),
        (WHOLE.signal * 1e-6, "seem to be volts"),
        (WHOLE.signal * 1e5, "seem to be digital units"),
    ]
    for signal, text in cases:
        (sample,) = EegReader().parse({"signal": signal, "sampling_rate": 250, "unit": "V", "channels": WHOLE.channels})
        assert len(sample.warnings) == 1 and text in sample.warnings[0]
    (drifting,) = EegReader().parse({"signal": WHOLE.signal + 0.05, "sampling_rate": 250, "unit": "V"})
    assert not drifting.warnings, "an amplifier's offset of 50 mV is no reason for doubt"


def manifest_cases(folder: Path) -> dict[str, str]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return {row["file"]: row["expect"] for row in csv.DictReader(stream)}


def test_damaged_files_are_answered_as_they_should(shared_data: Path) -> None:
    folder = shared_data / "eeg" / "malformed"
    load: list[Callable[[Path], Source]] = [Source.from_path, lambda p: Source.from_bytes(p.read_bytes(), p.name)]
    for name, expected in manifest_cases(folder).items():
        for source_of in load:
            try:
                sample = one(source_of(folder / name))
            except InvalidInput as error:
                assert expected != "accept", f"{name}: {error}"
                assert len(error.message) > 10
            else:
                assert expected != "reject", name
                assert np.isfinite(sample.data.signal).all() and (sample.warnings or name == "one_dim.npy"), name


def test_seven_formats_of_one_recording(shared_data: Path) -> None:
    folder = shared_data / "eeg" / "formats"
    expected = np.load(folder / "expected_uV.npy")
    tolerance = {".bdf": 0.0157, ".fif": 1e-4}
    for suffix in (".edf", ".bdf", ".vhdr", ".set", ".csv", ".npy", ".fif"):
        (path,) = folder.glob(f"sample*{suffix}")
        recording = one(path).data
        np.testing.assert_allclose(recording.microvolts, expected, rtol=0, atol=tolerance.get(suffix, 1e-9))
        assert recording.sampling_rate == 160
        if suffix in (".edf", ".vhdr", ".set", ".fif"):
            assert [n.label for n in recording.annotations] == ["T0", "T2", "T0"]
