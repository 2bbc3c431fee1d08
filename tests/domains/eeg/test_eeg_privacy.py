"""Who was recorded stays in the file: a name is planted in every field of every header, and looked for everywhere."""

from __future__ import annotations

import logging
import traceback
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from domains.eeg.reading import EegReader
from domains.eeg.samples import simulate, write_brainvision, write_fif
from domains.eeg.writing import bdf_bytes, edf_bytes
from hub.errors import InvalidInput
from hub.reading import Source

NAME = "Quackenbush"
WHOLE = simulate(seconds=4.0)


def planted_edf(content: bytes) -> bytes:
    """Plant the name in all text fields: patient, recording, transducers, prefilters, and the last channel's label."""
    signals = int(content[252:256])
    header = bytearray(content)
    header[8:168] = f"X F 01-JAN-1970 {NAME}".ljust(80).encode() + f"{NAME} {NAME}".ljust(80).encode()
    label = 256 + 16 * (len(WHOLE.channels) - 1)
    header[label : label + 16] = NAME.ljust(16).encode()
    for start, width in ((256 + 16 * signals, 80), (256 + 136 * signals, 80), (256 + 224 * signals, 32)):
        for i in range(signals):
            header[start + i * width : start + (i + 1) * width] = NAME.ljust(width).encode()
    return bytes(header)


def planted_files(folder: Path) -> list[Path]:
    import mne

    paths = [folder / "a.edf", folder / "a.bdf", folder / "a.csv"]
    paths[0].write_bytes(planted_edf(edf_bytes(WHOLE)))
    paths[1].write_bytes(planted_edf(bdf_bytes(WHOLE)))
    rows = "\n".join(",".join(f"{v:.2f}" for v in row) for row in WHOLE.microvolts[:2].T)
    paths[2].write_text(f"% {NAME}\nFp1,{NAME}\n{rows}\n", encoding="utf-8")
    vhdr = write_brainvision(folder / "b.vhdr", WHOLE)
    text = vhdr.read_text(encoding="utf-8").replace("Ch8=O2", f"Ch8={NAME}")
    vhdr.write_text(f"{text}\n[Comment]\nPatient: {NAME}\nImpedance {NAME}\n", encoding="utf-8")
    count = {"nbchan": 8.0, "pnts": 1000.0, "srate": 250.0, "data": WHOLE.microvolts, "trials": 1.0}
    texts = dict.fromkeys(("setname", "filename", "filepath", "subject", "comments", "history", "group"), NAME)
    places = np.array([(name,) for name in [*WHOLE.channels[:7], NAME]], [("labels", object)])
    savemat(folder / "c.set", {"EEG": {**count, **texts, "chanlocs": places}})
    fif = write_fif(folder / "d_raw.fif", WHOLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = mne.io.read_raw_fif(fif, preload=True, verbose="ERROR")
        raw.info["subject_info"] = {"first_name": NAME, "last_name": NAME, "his_id": NAME, "id": 1}
        raw.info.update(experimenter=NAME, description=NAME, proj_name=NAME)
        raw.rename_channels({"O2": NAME})
        raw.save(fif, overwrite=True, verbose="ERROR")
    return [*paths, vhdr, folder / "c.set", fif]


def test_no_name_from_a_header_gets_out(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    files = planted_files(tmp_path)
    assert all(NAME.encode() in p.read_bytes() or p.suffix == ".set" for p in files)
    capfd.readouterr()
    said: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for path in files:
            content = path.read_bytes()
            (sample,) = EegReader().read(Source.from_path(path))
            said += [repr(sample), str(dict(sample.metadata)), *sample.warnings]
            # Damage in many places, so that every kind of error is met.
            for place in range(0, min(len(content), 6000), 97):
                damaged = content[:place] + b"\xff\x00NaN" + content[place + 5 :]
                said += answers(damaged, path, tmp_path)
            for part in (0.01, 0.3, 0.9):
                said += answers(content[: int(len(content) * part)], path, tmp_path)
    said += [record.getMessage() for record in caplog.records] + [str(w.message) for w in recwarn]
    said += list(capfd.readouterr())
    leaks = [text[:300] for text in said if NAME in text]
    assert not leaks, leaks[:5]
    assert len({text.split(": ")[-1] for text in said}) > 20, "the damage met hardly any error"


def answers(content: bytes, path: Path, folder: Path) -> list[str]:
    source = Source.from_bytes(content, path.name)
    if path.suffix == ".vhdr":
        (folder / "damaged.vhdr").write_bytes(content)
        source = Source.from_path(folder / "damaged.vhdr", "damaged.vhdr")
    try:
        return [str(dict(sample.metadata)) + str(sample.warnings) for sample in EegReader().read(source)]
    except InvalidInput as error:
        return [str(error), "".join(traceback.format_exception(error))]


def test_repr_shows_no_label_of_an_annotation() -> None:
    from domains.eeg.recording import Annotation

    marked = replace(WHOLE, annotations=[Annotation(0.0, 1.0, f"{NAME} coughs")])
    (sample,) = EegReader().read(Source.from_bytes(edf_bytes(marked), "x.edf"))
    assert sample.data.annotations[0].label == f"{NAME} coughs"
    assert NAME not in repr(sample) + repr(sample.data) + str(dict(sample.metadata))
