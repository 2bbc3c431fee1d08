from __future__ import annotations

import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from domains.eeg.reading import EegReader
from domains.eeg.recording import Annotation, Recording
from domains.eeg.samples import simulate, write_set
from domains.eeg.writing import bdf_bytes, edf_bytes
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Sample, Source, Span

WHOLE = simulate()


def one(source: Path | Source, span: Span | None = None, **options: object) -> Sample:
    source = source if isinstance(source, Source) else Source.from_path(source)
    (sample,) = EegReader(**options).read(source, span)
    return sample


def from_bytes(content: bytes, name: str = "x.edf", **options: object) -> Sample:
    return one(Source.from_bytes(content, name), **options)


def test_archives_cannot_leave_their_folder_or_grow(eeg_files: dict[str, Path], tmp_path: Path) -> None:
    def zipped(**members: bytes) -> bytes:
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path.read_bytes()

    edf = eeg_files[".edf"].read_bytes()
    assert from_bytes(zipped(**{"../../escape.edf": edf}), "x.zip").data.channels == WHOLE.channels
    assert not (tmp_path.parent / "escape.edf").exists()
    with pytest.raises(UnsupportedFormat, match="2 recordings"):
        from_bytes(zipped(**{"a.edf": edf, "b.edf": edf}), "x.zip")
    with pytest.raises(UnsupportedFormat, match="ZIP archive in"):
        from_bytes(zipped(**{"a.edf": zipped(**{"b.edf": edf})}), "x.zip")
    with pytest.raises(TooLarge, match="unpacks to more"):
        from_bytes(zipped(**{"a.edf": bytes(3_000_000)}), "x.zip", max_bytes=1_000_000)
    cut = bytearray(zipped(**{"a.edf": edf}))
    cut[200] ^= 0xFF
    with pytest.raises(InvalidInput, match="damaged"):
        from_bytes(bytes(cut), "x.zip")


def edit(content: bytes, start: int, text: str, width: int) -> bytes:
    return content[:start] + text.encode().ljust(width) + content[start + width :]


def test_what_an_edf_header_announces_has_to_be_there() -> None:
    good = edf_bytes(WHOLE)
    signals = len(WHOLE.channels) + 1
    digital_max = 256 + signals * (16 + 80 + 8 + 8 + 8 + 8)
    damages: dict[str, tuple[bytes, str]] = {
        "longer": (good + b"\x00\x00", "2 bytes too long"),
        "cut": (good[:-10], "10 bytes too short"),
        "as text": (good.replace(b"\n", b"\r\n"), "too long"),
        "records": (edit(good, 236, "99999999", 8), "bytes too short"),
        "no records": (edit(good, 236, "0", 8), "announces 0 data records"),
        "no duration": (edit(good, 244, "0", 8), "lasts 0 s"),
        "endless": (edit(good, 244, "nan", 8), "is no number"),
        "signals": (edit(good, 252, "ab12", 4), "number of signals is no number"),
        "negative": (edit(good, 252, "-1", 4), "-1 signals"),
        "header size": (edit(good, 184, "512", 8), "needs? |need"),
        "flat range": (edit(good, digital_max, "-32767", 8), "digital range of Fp1"),
    }
    for name, (content, text) in damages.items():
        with pytest.raises(InvalidInput, match=text):
            from_bytes(content, name + ".edf")
    with pytest.raises(TooLarge, match="9,999 signals"):
        from_bytes(edit(good, 252, "9999", 4))
    with pytest.raises(UnsupportedFormat, match=r"rename it to \.bdf"):
        from_bytes(bdf_bytes(WHOLE), "x.edf")
    unclosed = from_bytes(edit(good, 236, "-1", 8) + b"\x01" * 7)
    assert unclosed.data.seconds == 24 and "unfinished record of 7 bytes" in unclosed.warnings[0]


def test_pieces_of_a_discontinuous_edf_are_joined_with_their_marks() -> None:
    marked = replace(WHOLE, annotations=[Annotation(3.5, 0.0, "early"), Annotation(14.5, 0.0, "late")])
    content = edf_bytes(marked).replace(b"EDF+C", b"EDF+D").replace(b"+14.5\x15", b"+64.5\x15")
    for record in range(10, 24):  # the clock jumps by 50 s after ten records
        content = content.replace(b"+%d\x14\x14" % record, b"+%d\x14\x14" % (record + 50))
    sample = from_bytes(content)
    assert sample.warnings == ("The recording was interrupted (1 times); its pieces are joined.",)
    assert [(n.onset, n.label) for n in sample.data.annotations] == [(3.5, "early"), (14.5, "late")]
    np.testing.assert_array_equal(sample.data.signal, from_bytes(edf_bytes(marked)).data.signal)


def test_channels_of_other_rates_units_and_kinds(tmp_path: Path) -> None:
    import mne

    content = edf_bytes(
        replace(WHOLE, channels=["EEG FP1-REF", "Fp2.", "EOG left", "SpO2", "C4", "T3", "O1-A2", "ECG"])
    )
    sample = from_bytes(content)
    assert sample.data.channels == ["Fp1", "Fp2", "C4", "T7", "O1-A2"]
    assert sample.data.original_names[0] == "EEG FP1-REF"
    assert sample.warnings == ("Channels that are no EEG were left out: 1 ECG, 1 EOG, 1 other.",)
    assert len(from_bytes(content, keep_all=True).data.channels) == 8
    unit = content.replace(b"uV      uV", b"degC    mV", 1)
    half = from_bytes(unit)
    assert half.data.channels[0] == "Fp2" and half.data.signal[0].std() > 500 * WHOLE.signal[1].std()
    # What MNE-Python reads from what we write.
    (tmp_path / "x.edf").write_bytes(edf_bytes(WHOLE))
    (tmp_path / "x.bdf").write_bytes(bdf_bytes(WHOLE))
    for path, read in ((tmp_path / "x.edf", mne.io.read_raw_edf), (tmp_path / "x.bdf", mne.io.read_raw_bdf)):
        theirs = read(path, verbose="ERROR")
        np.testing.assert_allclose(one(path).data.signal, theirs.get_data(), atol=1e-12)
        assert theirs.ch_names == WHOLE.channels


def with_rates(recording: Recording, steps: list[int]) -> bytes:
    """Return an EDF of whole seconds in which channels keep only every second, fourth, ... sample."""
    content, channels, rate = edf_bytes(recording), len(recording.channels), round(recording.sampling_rate)
    header, counts = 256 * (channels + 2), 256 + 216 * (channels + 1)
    records = np.frombuffer(content[header:], "<i2").reshape(recording.signal.shape[1] // rate, -1)
    parts = [records[:, i * rate : (i + 1) * rate : step] for i, step in enumerate(steps)]
    for i, step in enumerate(steps):
        content = edit(content, counts + 8 * i, str(-(-rate // step)), 8)
    return content[:header] + np.concatenate([*parts, records[:, channels * rate :]], axis=1).tobytes()


def test_slow_channels_are_brought_to_the_fastest_rate() -> None:
    time = np.arange(2560) / 256
    tones = 50e-6 * np.tile(np.sin(2 * np.pi * 7 * time), (3, 1))
    recording = Recording(tones, 256.0, ["C3", "C4", "Sensor"])
    sample = from_bytes(with_rates(recording, [1, 2, 128]))
    left, right = sample.data.microvolts[:, 256:-256]
    np.testing.assert_allclose(left, right, atol=0.1)
    assert sample.data.sampling_rate == 256 and sample.data.channels == ["C3", "C4"]
    assert "1 other" in sample.warnings[0] and "(1) were resampled to 256 Hz" in sample.warnings[1]
    with pytest.raises(InvalidInput, match="a sampling rate of 2 Hz"):
        from_bytes(with_rates(recording, [128, 128, 128]))


def test_one_name_stands_for_one_signal() -> None:
    twice = np.concatenate([WHOLE.signal[:2], WHOLE.signal[:1]])
    same = replace(WHOLE, signal=twice, channels=["T8-P8", "Fz", "T8-P8"])
    sample = from_bytes(edf_bytes(same))
    assert sample.data.channels == ["T8-P8", "Fz"] and "twice" in sample.warnings[0]
    with pytest.raises(InvalidInput, match=r"channels 1 and 3 have the same name \(T8-P8\)"):
        from_bytes(edf_bytes(replace(same, signal=WHOLE.signal[:3])))


def test_an_eeglab_set_with_its_samples_beside_it(tmp_path: Path) -> None:
    path = write_set(tmp_path / "x.set", WHOLE)
    count = {"nbchan": 8.0, "pnts": 6000.0, "srate": 250.0, "trials": 1.0, "data": "/etc/passwd"}
    savemat(path, {"EEG": {**count, "chanlocs": np.zeros(0)}})
    with pytest.raises(InvalidInput, match="is missing"):
        one(path)
    path.with_suffix(".fdt").write_bytes(WHOLE.microvolts.T.astype("<f4").tobytes())
    np.testing.assert_allclose(one(path).data.microvolts, WHOLE.microvolts, atol=1e-4)
    path.with_suffix(".fdt").write_bytes(b"1234")
    with pytest.raises(InvalidInput, match=r"\.fdt file has 4 bytes"):
        one(path)
    savemat(path, {**count, "trials": 12.0})
    with pytest.raises(UnsupportedFormat, match="12 epochs"):
        one(path)
    savemat(path, {"x": np.zeros((64, 1 << 20), np.uint8)}, do_compression=True)
    assert path.stat().st_size < 100_000
    with pytest.raises(TooLarge, match="decompresses"):
        one(path, max_values=1 << 20)
    # Little that announces much.
    savemat(path, {"EEG": {**count, "chanlocs": np.array([("Cz",)] * 3, [("labels", object)])}})
    content = path.read_bytes()
    place = content.index(struct.pack("<5i", 5, 8, 1, 3, 0x00040005)[:16])
    with pytest.raises(InvalidInput, match="damaged"):
        from_bytes(content[: place + 8] + struct.pack("<2i", 1, 1 << 30) + content[place + 16 :], "x.set")
    savemat(path, {"x": 1.0})
    with pytest.raises(UnsupportedFormat, match="no EEGLAB set"):
        one(path)


def test_brainvision_opens_nothing_outside_its_folder(eeg_files: dict[str, Path], tmp_path: Path) -> None:
    header = eeg_files[".vhdr"].read_text(encoding="utf-8")
    for name in ("/etc/passwd", "../x.eeg", "..\\x.eeg"):
        (tmp_path / "x.vhdr").write_text(header.replace("synthetic-eyes.eeg", name), encoding="utf-8")
        with pytest.raises(InvalidInput, match="another folder"):
            one(tmp_path / "x.vhdr")
    (tmp_path / "x.vhdr").write_text(header, encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"\.vmrk belong together"):
        one(tmp_path / "x.vhdr")
    (tmp_path / "synthetic-eyes.vmrk").write_bytes(eeg_files[".vhdr"].with_suffix(".vmrk").read_bytes())
    (tmp_path / "synthetic-eyes.eeg").write_bytes(bytes(8 * 4 * 100 + 3))
    with pytest.raises(InvalidInput, match="cut off"):
        one(tmp_path / "x.vhdr")


def test_fif_tags_stay_in_the_file_and_move_on(eeg_files: dict[str, Path]) -> None:
    good = eeg_files[".fif"].read_bytes()
    with pytest.raises(InvalidInput, match="past its end"):
        from_bytes(good[: len(good) // 2], "x.fif")
    turned = bytearray(good)
    turned[48:52] = struct.pack(">i", 16)  # the second tag names the first as the next
    with pytest.raises(InvalidInput, match="turns back"):
        from_bytes(bytes(turned), "x.fif")
    place = good.index(struct.pack(">iIi", 200, 3, 4)) + 16
    many = good[:place] + struct.pack(">i", 100_000) + good[place + 4 :]
    with pytest.raises(TooLarge, match="100,000 channels"):
        from_bytes(many, "x.fif")
