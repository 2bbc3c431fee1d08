from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from domains.eeg.reading import EegReader
from domains.eeg.samples import simulate
from hub.errors import InvalidInput
from hub.reading import Sample, Source, Span

WHOLE = simulate()
TEXT = simulate(("Pz",), 173.61, seed=2)


def one(source: Path | Source, span: Span | None = None, **options: object) -> Sample:
    source = source if isinstance(source, Source) else Source.from_path(source)
    (sample,) = EegReader(**options).read(source, span)
    return sample


def from_bytes(content: bytes, name: str = "x.edf", **options: object) -> Sample:
    return one(Source.from_bytes(content, name), **options)


TABLES: dict[str, tuple[str, float, list[str]]] = {
    "semicolon and comma": ("\ufeffFp1;Fp2\n" + "12,5;-3,25\n" * 500, 250, ["Fp1", "Fp2"]),
    "no header": ("12,5;-3,25\n" * 500, 250, ["EEG 1", "EEG 2"]),
    "spaces": ("  12.5   -3.25\r\n" * 500, 250, ["EEG 1", "EEG 2"]),
    "tabs": ("t\tC3\tC4\n" + "".join(f"{i / 128:.6f}\t12.5\t-3.25\n" for i in range(500)), 128, ["C3", "C4"]),
    "milliseconds": ("time (ms),C3,C4\n" + "".join(f"{i * 4},12.5,-3.25\n" for i in range(500)), 250, ["C3", "C4"]),
    "OpenBCI": (
        "%OpenBCI Raw EXG Data\n%Number of channels = 2\n%Sample Rate = 200 Hz\n"
        "Sample Index, EXG Channel 0, EXG Channel 1, Accel Channel 0, Timestamp, Timestamp (Formatted)\n"
        + "".join(
            f"{i % 256}, 12.5, -3.25, 0.1, {1e9 + i // 10 * 0.05:.2f}, 2020-01-01 10:00:00\n" for i in range(500)
        ),
        200,
        ["EXG Channel 0", "EXG Channel 1"],
    ),
    "old OpenBCI": (
        "%OpenBCI Raw EEG Data\n%Number of channels = 2\n%Sample Rate = 250.0 Hz\n"
        + "".join(f"{i % 256}, 12.50, -3.25, 0.0, 0.0, 0.0, 13:21:22.123\n" for i in range(500)),
        250,
        ["EEG 1", "EEG 2"],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_people_have_them(name: str) -> None:
    text, rate, channels = TABLES[name]
    recording = from_bytes(text.encode(), "x.csv").data
    assert recording.channels == channels and recording.sampling_rate == pytest.approx(rate)
    np.testing.assert_allclose(recording.microvolts, np.repeat([[12.5], [-3.25]], 500, axis=1))


def test_what_is_wrong_in_a_table_is_named_by_line_and_column() -> None:
    rows = ["1.0,2.0,3.0"] * 400

    def table(line: int, text: str) -> bytes:
        changed = [*rows]
        changed[line - 2] = text
        return "\n".join(["Fp1,Fp2,C3", *changed]).encode()

    wrong = {"1,2": "2 cells", "1,,3": "column 2 is empty", "1,2,x": "column 3 is no number", "1,nan,3": "not a finite"}
    for text, message in wrong.items():
        with pytest.raises(InvalidInput, match=f"line 77.*{message}"):
            from_bytes(table(77, text), "x.csv")
    times = np.arange(400) / 200
    for step, message in ((1.0, "forward by 1.0"), (-0.3, "back by 0.2")):
        late = times + step * (np.arange(400) >= 100)
        text = "time,C3\n" + "\n".join(f"{t:.4f},1.0" for t in late)
        with pytest.raises(InvalidInput, match=f"{message}.*line 102"):
            from_bytes(text.encode(), "x.csv")


def test_a_rate_is_said_or_assumed_aloud_but_never_for_a_lone_column(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", WHOLE.microvolts.astype(np.int16))
    assumed = one(tmp_path / "x.npy")
    assert assumed.data.sampling_rate == 250 and "Nothing says the sampling rate" in assumed.warnings[0]
    with pytest.raises(InvalidInput, match=r"eeg\.json"):
        one(tmp_path / "x.npy", assumed_rate=None)
    column = "\n".join(str(n) for n in np.round(TEXT.microvolts[0]).astype(int))
    (tmp_path / "Z001.txt").write_text(column, encoding="ascii", newline="\r\n")
    with pytest.raises(InvalidInput, match=r"eeg\.json"):
        one(tmp_path / "Z001.txt")
    (tmp_path / "eeg.json").write_text(json.dumps({"SamplingFrequency": 173.61, "TaskName": "rest", "unit": "mV"}))
    said = one(tmp_path / "Z001.txt").data
    assert said.sampling_rate == 173.61
    np.testing.assert_allclose(said.microvolts, TEXT.microvolts * 1000, atol=501)
    (tmp_path / "eeg.json").write_text(json.dumps({"SamplingFrequency": "fast", "unit": "ft"}))
    with pytest.raises(InvalidInput, match=r"eeg\.json beside it: .*number of Hz.*; the unit"):
        one(tmp_path / "Z001.txt")


def test_arrays_of_any_real_type_and_order(tmp_path: Path) -> None:
    whole = np.round(WHOLE.microvolts)
    for kind in ("<f4", ">f8", "<i2", ">i4", "<f2"):
        for order in ("C", "F"):
            np.save(tmp_path / "x.npy", np.array(whole, kind, order=order))
            np.testing.assert_array_equal(one(tmp_path / "x.npy").data.microvolts.round(3), whole.astype(kind))
    np.save(tmp_path / "x.npy", whole[0])
    assert one(tmp_path / "x.npy").data.signal.shape == (1, 6000)
    wrong = {
        "lie on its side": whole.T,
        "would have to be unpickled": np.array([{}], object),
        "complex": whole.astype(np.complex64),
        "true and false": whole > 0,
        "1 x 8 x 6000": whole[None],
        "is empty": np.zeros((3, 0)),
    }
    for message, array in wrong.items():
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
        with pytest.raises(InvalidInput, match=message):
            one(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", whole)
    with pytest.raises(InvalidInput, match="damaged or cut off"):
        from_bytes((tmp_path / "x.npy").read_bytes()[:-8], "x.npy")
