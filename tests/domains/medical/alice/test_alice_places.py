"""Linear models on boxes around labelled voxels, on phantoms."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import hub
from domains.medical.alice.configuration import AliceConfig
from domains.medical.alice.modeling import AliceModel
from domains.medical.alice.places import Places, compare
from domains.medical.alice.processing import AliceProcessor
from domains.medical.samples import phantom
from hub.domain import get_system
from hub.publishing import card_metadata, save_checkpoint, write_card

PLACES = {"middle": (11, 13, 15), "skull": (3, 13, 15)}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Ten volumes, each with a place in the middle and one at the skull, three voxels around either."""
    (tmp_path / "images").mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for number in range(10):
        name = f"{number}.nii.gz"
        # In RAS+ order the affine is the unit matrix.
        nibabel.save(nibabel.Nifti1Image(phantom(30, 26, 22, seed=number).T, np.eye(4)), tmp_path / "images" / name)
        for label, place in enumerate(PLACES.values()):
            for _ in range(3):
                moved = np.add(place, draw.integers(-1, 2, 3))
                rows.append([name, "train" if number < 7 else "test", *moved, label])
    with (tmp_path / "patches.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "split", "x", "y", "z", "label"])
        table.writerows(rows)
    return tmp_path


def test_boxes_are_cut_around_their_places_and_scored(labelled: Path, tmp_path: Path, monkeypatch) -> None:
    from domains.medical.alice import places as module

    monkeypatch.setattr(module, "TWINS", (0,))
    torch.manual_seed(0)
    sizes = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": [4, 4], "levels": [0, 1]}
    save_checkpoint(tmp_path / "m", AliceModel(AliceConfig(roi=[16] * 3, **sizes)), AliceProcessor(roi=[16] * 3))
    write_card(tmp_path / "m", card_metadata(get_system("alice"), license="apache-2.0"), "# m\n\nRandom weights.")
    embedder = hub.from_pretrained(tmp_path / "m")
    places = Places.read(labelled, embedder.processor, 16)
    assert places.boxes.shape == (60, 16, 16, 16) and places.train.sum() == 42
    # The middle of a box is its place: voxel 8 along each axis.
    raw = nibabel.load(labelled / "images" / places.cases[0]).get_fdata()
    with (labelled / "patches.csv").open() as stream:
        first = next(csv.DictReader(stream))
    x, y, z = (int(first[axis]) for axis in "xyz")
    around = raw[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]
    correlation = np.corrcoef(places.boxes[0, 7:10, 7:10, 7:10].ravel(), around.ravel())[0, 1]
    assert correlation > 0.999
    scores = compare(embedder, places, "centre")
    assert list(scores) == [embedder.name, "intensity statistics", "voxels, 8 x 8 x 8", "random weights, mean of 1"]
    assert all(0 <= value <= 1 for score in scores.values() for value in score.values())
    assert scores["voxels, 8 x 8 x 8"]["auc"] > 0.95
