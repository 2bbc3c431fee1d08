"""Synthetic heads from a toy atlas, and the manifest of several sets."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from domains.medical.lvm_med.corpora import write_manifest, write_phantoms
from domains.medical.lvm_med.phantoms import TISSUES, Atlas


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A brain of two tissues in a box of 40 x 48 x 40 voxels."""
    folder = tmp_path_factory.mktemp("template")
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 48, 40)), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    maps = {"gm": (radius < 0.9) & (radius > 0.6), "wm": radius <= 0.6, "t1": radius < 0.95}
    for name, values in maps.items():
        nibabel.Nifti1Image((255 * values).astype(np.uint8), np.eye(4)).to_filename(folder / f"toy_{name}_a.nii.gz")
    return folder


def test_the_shells_of_a_head_lie_around_its_brain(template: Path) -> None:
    atlas = Atlas.read(*(next(template.glob(f"*_{name}_*")) for name in ("gm", "wm", "t1")))
    assert atlas.tissues.shape == (len(TISSUES), 88, 96, 88)
    shares = dict(zip(TISSUES, atlas.tissues, strict=True))
    along = {name: np.flatnonzero(share[44, 48, 44:] > 0.5) for name, share in shares.items()}
    order = [along[name].mean() for name in ("white", "grey", "fluid", "skull", "scalp")]
    assert order == sorted(order) and all(len(found) for name, found in along.items() if name != "face")
    assert atlas.tissues.sum(0).max() <= 1 + 1e-6
    assert shares["face"].any() and not (shares["face"] * (shares["grey"] + shares["white"])).any()


def test_synthetic_slices_differ_and_repeat(template: Path, tmp_path: Path) -> None:
    first = write_phantoms(template, tmp_path / "a", 6, size=48)
    second = write_phantoms(template, tmp_path / "b", 3, size=48)
    images = [np.asarray(Image.open(path)) for path in first]
    assert all(image.shape == (48, 48) and image.dtype == np.uint8 for image in images)
    assert all((np.asarray(Image.open(b)) == a).all() for a, b in zip(images, second, strict=False))
    assert len({image.tobytes() for image in images}) == 6 and np.mean([image.std() for image in images]) > 10
    with pytest.raises(FileNotFoundError, match="_gm_"):
        write_phantoms(tmp_path / "a", tmp_path / "c", 1)


def test_a_manifest_takes_folders_whole_and_of_tables_the_train_part(template: Path, tmp_path: Path) -> None:
    (tmp_path / "set" / "images").mkdir(parents=True)
    with (tmp_path / "set" / "volumes.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["file", "split"], ["a.nii", "train"], ["b.nii", "test"]])
    assert write_manifest(tmp_path / "all.csv", [template, tmp_path / "set" / "volumes.csv"]) == 4
    with (tmp_path / "all.csv").open(newline="") as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    assert files[-1] == str((tmp_path / "set" / "images" / "a.nii").resolve())
    assert sum(file.endswith(".nii.gz") for file in files) == 3
