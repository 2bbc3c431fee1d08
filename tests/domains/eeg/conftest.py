from __future__ import annotations

from pathlib import Path

import pytest

from domains.eeg.samples import (
    MUSE,
    simulate,
    write_brainvision,
    write_csv,
    write_fif,
    write_npy,
    write_set,
    write_text,
)
from domains.eeg.writing import bdf_bytes, edf_bytes


@pytest.fixture(scope="session")
def eeg_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One simulated recording in all formats of many channels, and others as a table and as text, by suffix."""
    folder = tmp_path_factory.mktemp("eeg")
    whole = simulate()
    edf, bdf = folder / "synthetic-eyes.edf", folder / "synthetic-eyes.bdf"
    edf.write_bytes(edf_bytes(whole))
    bdf.write_bytes(bdf_bytes(whole))
    paths = [
        edf,
        bdf,
        write_brainvision(folder / "synthetic-eyes.vhdr", whole),
        write_set(folder / "synthetic-eyes.set", whole),
        write_fif(folder / "synthetic-eyes_raw.fif", whole),
        write_npy(folder / "synthetic-array.npy", whole),
        write_csv(folder / "synthetic-muse.csv", simulate(MUSE, 256.0, seed=1)),
        write_text(folder / "synthetic-one-channel.txt", simulate(("Pz",), 173.61, seed=2)),
    ]
    return {path.suffix: path for path in paths}
