"""EEGFormer's front end and windows: where frequencies, times and amplitudes end up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from domains.eeg.eegformer.processing import EEGFormerProcessor
from domains.eeg.eegformer.regions import REGIONS, region_of
from domains.eeg.eegformer.spectrum import FrontEnd
from domains.eeg.eegformer.windowing import Window, covering
from hub.errors import InvalidInput
from hub.reading import Sample, Source, Span


@pytest.mark.parametrize("spectrum", ["amplitude", "log_amplitude", "complex"])
@pytest.mark.parametrize(("scope", "axis"), [("window", "frequency"), ("frame", "frequency"), ("frame", "time")])
def test_every_front_end_puts_a_tone_into_its_place(spectrum: str, scope: str, axis: str, record) -> None:
    processor = EEGFormerProcessor(
        window_seconds=4.0, spectrum=spectrum, fft_scope=scope, token_axis=axis, frame_seconds=1.0, freq_max=60.0,
        patch_size=8, stride=8,
    )  # fmt: skip
    front_end = processor.front_end
    rows, tokens = front_end.rows_and_tokens(1000)
    values = processor.prepare(record(["Cz", "Pz"], tone=20.0))["input_values"]
    assert values.shape == (2 * rows, tokens, front_end.values)
    cells = values.unflatten(-1, (-1, front_end.parts))
    peak = cells.norm(dim=-1) if spectrum == "complex" else cells[..., 0]
    token, place = divmod(int(peak[0].argmax()), peak.shape[-1])
    if axis == "time":
        assert front_end.frequencies[place] == pytest.approx(20.0)
    else:
        assert front_end.token_span(token)[0] <= 20.0 <= front_end.token_span(token)[1]


def test_gain_changes_the_amplitude_and_nothing_else(processor, record) -> None:
    sample = record(["Cz"])
    louder = Sample(type(sample.data)(sample.data.signal * 10, 250.0, ["Cz"]))
    one, other = processor.prepare(sample), processor.prepare(louder)
    torch.testing.assert_close(one["input_values"], other["input_values"], atol=1e-4, rtol=0)
    # Natural logarithms: ten times as loud is log 10 more, with the same spread of the logarithms.
    difference = other["amplitude"] - one["amplitude"]
    torch.testing.assert_close(difference, torch.tensor([[np.log(10.0), 0.0]]).float(), atol=1e-4, rtol=0)


def test_a_drift_stays_in_its_bin_with_a_taper_and_leaks_without(record) -> None:
    sample = record(["Fp1"])
    sample.data.signal[:] += np.linspace(0, 3e-3, sample.data.signal.shape[1])
    front = {"fft_scope": "frame", "frame_seconds": 1.0, "freq_min": 1.0, "freq_max": 45.0, "token_axis": "time"}
    clean = FrontEnd(window_seconds=4.0, taper="hann", **front).raw(record(["Fp1"]).data.microvolts)
    tapered = FrontEnd(window_seconds=4.0, taper="hann", **front).raw(sample.data.microvolts)
    leaking = FrontEnd(window_seconds=4.0, **front).raw(sample.data.microvolts)
    np.testing.assert_allclose(tapered, clean, rtol=1e-6)
    assert leaking[..., :5, :].mean() > 2 * clean[..., :5, :].mean()


def test_silence_and_constants_are_finite(processor) -> None:
    from domains.eeg.recording import Recording

    for value in (0.0, 1e-3):
        features = processor.prepare(Sample(Recording(np.full((1, 1000), value), 250.0, ["Cz"])))
        assert all(torch.isfinite(v).all() for v in features.values())


def test_impossible_front_ends_are_refused() -> None:
    for wrong in (
        {"token_axis": "time"},
        {"spectrum": "power"},
        {"freq_min": 50.0, "freq_max": 40.0},
        {"freq_max": 2.0},
        {"fft_scope": "frame", "frame_seconds": 20.0},
    ):
        with pytest.raises(ValueError):
            EEGFormerProcessor(**wrong)


def test_files_are_cut_to_windows_named_by_their_seconds(tmp_path: Path) -> None:
    rate, signal = 128.0, np.random.default_rng(0).normal(size=(2, 128 * 11)).astype(np.float32)
    np.save(tmp_path / "a.npy", signal)
    (tmp_path / "a.json").write_text(json.dumps({"SamplingFrequency": rate, "channels": ["O1", "O2"], "unit": "uV"}))
    reader = EEGFormerProcessor(window_seconds=4.0, stride_seconds=2.0).reader()
    windows = list(reader.read(Source.from_path(tmp_path / "a.npy")))
    assert [w.key for w in windows] == ["0-4s", "2-6s", "4-8s", "6-10s"]
    assert all(w.data.signal.shape == (2, 1000) and w.data.sampling_rate == 250.0 for w in windows)
    assert windows[1].metadata["start"] == 2.0 and len({w.data.origin for w in windows}) == 1
    np.testing.assert_array_equal(windows[0].data.signal[:, 500:], windows[1].data.signal[:, :500])
    # What fills no window is left out, and the last window says so.
    assert [w.warnings for w in windows[:-1]] == [()] * 3
    assert "The last 1 s of the recording were left out" in windows[-1].warnings[0]
    np.save(tmp_path / "a.npy", signal[:, : 128 * 10])
    assert not any(w.warnings for w in reader.read(Source.from_path(tmp_path / "a.npy")))
    # A stretch that is asked for is one sample, of whatever length.
    np.save(tmp_path / "a.npy", signal)
    (stretch,) = reader.read(Source.from_path(tmp_path / "a.npy"), Span(1.0, 10.5))
    assert stretch.data.signal.shape == (2, round(9.5 * 250)) and stretch.key == "1-10.5s" and not stretch.warnings


def test_annotations_label_windows(record) -> None:
    from domains.eeg.eegformer.windowing import Conditioning, WindowReader
    from domains.eeg.reading import EegReader
    from domains.eeg.recording import Annotation

    sample = record(["Cz"], seconds=12.0)
    sample.data.annotations.append(Annotation(3.0, 6.0, "seizure"))
    reader = WindowReader(EegReader(), Conditioning(), 4.0, 4.0)
    windows = list(reader._windows(sample))
    assert [w.data.label for w in windows] == ["", "seizure", ""]
    # A label may be anything that somebody wrote beside a recording of a person: it is not given away.
    assert not any("seizure" in str(w.metadata) for w in windows)


def test_a_long_stretch_is_covered_to_its_end() -> None:
    assert covering(1000, 400) == [0, 300, 600] and covering(400, 400) == [0] and covering(300, 400) == [0]


def test_conditioning_happens_once_and_before_cutting(record) -> None:
    processor = EEGFormerProcessor(window_seconds=4.0, low=1.0, high=30.0, notch=50.0, reference="average")
    sample = record(["Cz", "Pz", "Oz"], seconds=9.0, rate=173.61)
    window = processor.condition(sample)
    assert isinstance(window, Window) and window.sampling_rate == 250.0
    assert processor.conditioning(window) is window
    np.testing.assert_allclose(window.signal.mean(0), 0, atol=1e-12)
    spectrum = np.abs(np.fft.rfft(window.signal))
    hertz = np.fft.rfftfreq(window.signal.shape[1], 1 / 250)
    assert spectrum[:, hertz > 60].mean() < 0.01 * spectrum[:, (hertz > 5) & (hertz < 25)].mean()


def test_a_stretch_is_filtered_with_what_lies_beside_it(tmp_path: Path) -> None:
    """A drift of millivolts: filters that settle within two seconds would leave most of it."""
    rate, seconds = 250.0, 40
    time = np.arange(round(rate * seconds)) / rate
    signal = 20 * np.sin(2 * np.pi * 10 * time) + 5000 * np.sin(2 * np.pi * 0.02 * time)
    np.save(tmp_path / "a.npy", signal[None])
    (tmp_path / "a.json").write_text(json.dumps({"SamplingFrequency": rate, "channels": ["Fp1"], "unit": "uV"}))
    reader = EEGFormerProcessor(window_seconds=4.0, low=1.0, high=45.0, notch=50.0).reader()
    source = Source.from_path(tmp_path / "a.npy")
    whole = np.concatenate([w.data.microvolts for w in reader.read(source)], axis=1)
    for start, stop in ((19.0, 21.0), (0.0, 2.0), (37.0, 40.0)):
        (stretch,) = reader.read(source, Span(start, stop))
        assert stretch.key == f"{start:g}-{stop:g}s" and stretch.data.signal.shape == (1, (stop - start) * rate)
        facts = stretch.metadata
        assert (facts["start"], facts["stop"], facts["seconds"]) == (start, stop, stop - start)
        np.testing.assert_allclose(
            stretch.data.microvolts, whole[:, round(start * rate) : round(stop * rate)], rtol=0, atol=1.0
        )
    (last,) = reader.read(source, Span(38.0, None))
    assert last.data.seconds == 2.0
    with pytest.raises(InvalidInput, match=r"starts at 41 s; the recording lasts 40\.000 s"):
        list(reader.read(source, Span(41.0, 43.0)))


def test_too_short_a_recording_is_refused_with_both_lengths(processor, record) -> None:
    with pytest.raises(InvalidInput, match=r"0\.5 s.*at least 1 s"):
        processor.prepare(record(["Cz"], seconds=0.5))


def test_every_electrode_has_its_region() -> None:
    expected = {"Fp1": "frontal left", "Cz": "central midline", "T8": "central right", "O2": "posterior right"}
    expected |= {"AF7": "frontal left", "POz": "posterior midline", "TP9": "central left", "F7-T7": "frontal left"}
    expected |= {"Right AUX": "elsewhere", "EEG": "elsewhere"}
    assert {name: REGIONS[region_of(name)] for name in expected} == expected
