from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_erosion

import hub
from domains.medical.image import MedicalImage
from domains.medical.samples import as_dicom, phantom
from domains.medical.segmentation.decoder import PyramidDecoder
from domains.medical.segmentation.files import class_file
from domains.medical.segmentation.grids import SliceGrid, WindowGrid
from domains.medical.segmentation.labelled import labelled_rows
from domains.medical.segmentation.scoring import Scores
from domains.medical.segmentation.training import Training, train_segmenter
from domains.medical.writing import nifti
from hub.domain import get_system
from hub.errors import InvalidManifest, UnsupportedOption
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Sample

ALICE = {"roi": [16, 16, 16], "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": [4, 4]}
LVM_MED = {"arch": "resnet18", "width": 8, "depths": [1, 1], "projector_hidden": [16], "projection_size": 8}
QUICK = Training(steps=2, batch_size=2, width=4)
AFFINE = np.array([[0, 0, -2.0, 40], [0, -1.5, 0, 30], [3.0, 0, 0, -10], [0, 0, 0, 1]])
"""Of a canonical volume: 3 mm slices from foot to head, 1.5 mm rows to the back, 2 mm columns to the left."""


def checkpoint(folder: Path, system: str) -> Path:
    torch.manual_seed(0)
    declared = get_system(system)
    config = declared.load("configuration")(**(ALICE if system == "alice" else LVM_MED))
    options = {"roi": ALICE["roi"]} if system == "alice" else {"size": 64}
    save_checkpoint(folder, declared.load("model")(config), declared.load("processor")(**options))
    write_card(folder, card_metadata(declared, license="apache-2.0", name=system), f"# {system}\n")
    return folder


def write_set(folder: Path, system: str, count: int = 4) -> Path:
    """Write heads with the bright parts as mask, and a manifest."""
    rows = [["file", "label", "split"]]
    for number in range(count):
        head = phantom(20, 30, 26, number)
        if system == "alice":
            image, mask = f"{number}.nii.gz", f"{number}-mask.nii.gz"
            oriented = head[:, ::-1, ::-1].transpose(2, 1, 0)
            nibabel.Nifti1Image(oriented, np.diag([2.0, 1.5, 3.0, 1.0])).to_filename(folder / image)
            truth = nibabel.Nifti1Image((oriented > 0.9).astype(np.uint8), np.diag([2.0, 1.5, 3.0, 1.0]))
            truth.to_filename(folder / mask)
        else:
            image, mask = f"{number}.dcm", f"{number}-mask.png"
            (folder / image).write_bytes(as_dicom(900 * head[10], "MR", number))
            Image.fromarray((head[10] > 0.9).astype(np.uint8)).save(folder / mask)
        rows.append([image, mask, "test" if number == 0 else "train"])
    with (folder / "set.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder / "set.csv"


@pytest.mark.parametrize(
    ("dimensions", "grids"),
    [
        (2, [(16, 16), (8, 8), (4, 4)]),
        (2, [(6, 6), (6, 6), (6, 6), (6, 6)]),
        (3, [(5, 8, 4), (3, 4, 2)]),
        (3, [(2, 2, 2)]),
    ],
)
def test_a_decoder_takes_maps_of_any_grid(dimensions: int, grids: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    widths = [6 * (level + 1) for level in range(len(grids))]
    decoder = PyramidDecoder(dimensions, 2, widths, classes=3, width=4)
    size = (48, 40) if dimensions == 2 else (10, 16, 8)
    image = torch.randn(2, 2, *size)
    maps = [torch.randn(2, wide, *grid, requires_grad=True) for wide, grid in zip(widths, grids, strict=True)]
    logits = decoder(maps, image)
    assert logits.shape == (2, 3, *size)
    logits.square().mean().backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in maps)
    # One image's result does not depend on the other.
    alone = decoder([m[:1] for m in maps], image[:1])
    assert torch.allclose(alone, logits[:1], atol=1e-5)


class ByValue:
    """Stands in for a model: the class is the value of the voxel, and windows know nothing of their place."""

    device = torch.device("cpu")

    def __init__(self, roi: list[int] | None = None) -> None:
        self.config = type("Config", (), {"roi": roi})()

    def segment_logits(self, images: torch.Tensor) -> torch.Tensor:
        first = images[:, 0]
        return 20 * torch.stack([0.5 - first, first - 0.5], dim=1)


def test_windows_put_together_are_the_volume_on_its_own_grid() -> None:
    from domains.medical.alice.processing import AliceProcessor

    random = np.random.default_rng(0)
    values = (random.random((1, 21, 13, 30)) > 0.5).astype(np.float32)
    sample = Sample(MedicalImage(values, AFFINE, (3.0, 1.5, 2.0)))
    processor = AliceProcessor(roi=[16, 16, 16])
    grid = WindowGrid()
    batch = processor.pad([processor.prepare(sample), processor.prepare(Sample(MedicalImage(values[:, :9], AFFINE)))])
    feature = grid.split(batch)[0]
    found = grid.probabilities(ByValue([16, 16, 16]), feature, sample)
    assert found.shape == (2, 21, 13, 30)
    assert np.array_equal(found.argmax(0).numpy(), values[0])
    mask = values[0].astype(np.int64)
    labels = grid.labels(mask, processor.prepare(sample), sample)
    assert torch.equal(labels.float(), processor.prepare(sample)["volume"].round())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_put_together_are_the_volume_on_its_own_grid(axis: int) -> None:
    values = np.zeros((1, 12, 16, 20), np.float32)
    values[:, 3:9, 4:12, 5:15] = 1
    sample = Sample(MedicalImage(values, AFFINE, (3.0, 1.5, 2.0), slice_axis=axis))
    slices = torch.from_numpy(np.ascontiguousarray(sample.data.slices()))
    feature = torch.nn.functional.interpolate(slices, (64, 64), mode="nearest")
    found = SliceGrid().probabilities(ByValue(), feature, sample)
    assert np.array_equal(found.argmax(0).numpy(), values[0])
    labels = SliceGrid().labels(values[0].astype(np.int64), feature, sample)
    assert torch.equal(labels, feature[:, 0].long())


def test_a_mask_lies_where_its_image_does() -> None:
    classes = torch.zeros(6, 5, 4, dtype=torch.int64)
    classes[1, 2, 3] = 2
    image = MedicalImage(np.zeros((1, 6, 5, 4), np.float32), AFFINE, (3.0, 1.5, 2.0))
    answer = class_file(classes, image)
    file = nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    voxels = np.asarray(file.dataobj)
    assert voxels.dtype == np.uint8
    assert nibabel.aff2axcodes(file.affine) == ("R", "A", "S")
    (place,) = np.argwhere(voxels == 2)
    assert np.allclose(file.affine @ [*place, 1], AFFINE @ [1, 2, 3, 1])
    small = classes.numpy().astype(np.uint8)
    assert nifti(small, image) == nifti(small, image)
    flat = class_file(classes[:1] + 1, MedicalImage(np.zeros((1, 1, 5, 4), np.float32)))
    assert flat.media_type == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(flat.content))), np.ones((5, 4)))


def test_scores_of_a_shifted_cube() -> None:
    truth = np.zeros((20, 20, 20), np.int64)
    truth[5:15, 5:15, 5:15] = 1
    given = np.roll(truth, 2, axis=0)
    scores = Scores(["background", "cube", "absent"])
    scores.add(given, truth, (3.0, 1.0, 1.0))
    scores.add(np.zeros_like(truth), truth, (3.0, 1.0, 1.0))
    found = scores.summary()
    assert found["dice"] == pytest.approx({"cube": (0.8 + 0.0) / 2, "mean": 0.4})
    assert found["hd95"] == pytest.approx({"cube": 6.0, "mean": 6.0})  # two slices of 3 mm; a missed cube has none
    eroded = Scores(["background", "square"])
    flat = truth[10:11]
    eroded.add(binary_erosion(flat[0])[None].astype(np.int64), flat, (9.0, 1.0, 2.0))
    assert eroded.summary()["hd95"]["square"] == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize("system", ["alice", "lvm_med"])
def test_a_trained_checkpoint_segments_files(tmp_path: Path, system: str) -> None:
    start = checkpoint(tmp_path / "start", system)
    manifest = write_set(tmp_path, system)
    results = train_segmenter(start, manifest, tmp_path / "out", ["nothing", "bone"], QUICK, leaky=True)
    assert set(results["dice"]) == {"bone", "mean"}
    assert results["rows"] == {"train": 3, "test": 1}
    model = hub.from_pretrained(tmp_path / "out")
    file = tmp_path / ("0.nii.gz" if system == "alice" else "0.dcm")
    (answer,) = model.run("segment", [file])
    voxels = np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content)).dataobj)
    if system == "alice":
        whole = nibabel.load(file)
        assert voxels.shape == whole.shape
        truth = np.asarray(nibabel.load(tmp_path / "0-mask.nii.gz").dataobj)
        both = 2 * ((voxels == 1) & (truth == 1)).sum() / ((voxels == 1).sum() + (truth == 1).sum())
        assert both == pytest.approx(results["dice"]["bone"], abs=1e-6)
    else:
        assert sorted(voxels.shape) == [1, 26, 30]
    # The encoder is still the system's own, and a checkpoint without a decoder has no such task.
    assert np.allclose(len(model.embed([file])[0]), len(hub.from_pretrained(start).embed([file])[0]))
    assert "segment" not in hub.from_pretrained(start).model.tasks


def test_a_frozen_encoder_stays_and_a_tuned_one_moves(tmp_path: Path) -> None:
    start = checkpoint(tmp_path / "start", "alice")
    manifest = write_set(tmp_path, "alice", 3)
    before = hub.from_pretrained(start).model.state_dict()
    for mode in ("frozen", "full"):
        train_segmenter(start, manifest, tmp_path / mode, ["a", "b"], Training(mode, 2, 1, width=4), leaky=True)
        after = hub.from_pretrained(tmp_path / mode).model.state_dict()
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert not moved if mode == "frozen" else len(moved) > len(before) / 2
        assert json.loads((tmp_path / mode / "segmentation.json").read_text())["losses"][1] > 0


def test_patients_stay_on_one_side(tmp_path: Path) -> None:
    manifest = write_set(tmp_path, "lvm_med", 6)
    processor = get_system("lvm_med").load("processor")(size=64)
    lines = [line.rsplit(",", 1)[0] for line in manifest.read_text().splitlines()]
    patients = ["patient", "a", "a", "b", "b", "c", "c"]
    named = [f"{line},{patient}" for line, patient in zip(lines, patients, strict=True)]
    manifest.write_text("\n".join(named))
    rows = labelled_rows(manifest, processor, test_share=0.34, leaky=False, seed=0)
    sides = {row.group: row.split for row in rows}
    assert sorted(sides.values()) == ["test", "train", "train"]
    assert all(sides[row.group] == row.split for row in rows)
    split = ["split", "train", "test", "train", "train", "test", "test"]
    manifest.write_text("\n".join(f"{line},{side}" for line, side in zip(named, split, strict=True)))
    with pytest.raises(InvalidManifest, match="group 'a' is in"):
        labelled_rows(manifest, processor, 0.2, leaky=False, seed=0)


def test_a_class_without_a_name_and_a_model_without_maps_are_refused(tmp_path: Path) -> None:
    manifest = write_set(tmp_path, "lvm_med", 2)
    start = checkpoint(tmp_path / "start", "lvm_med")
    Image.fromarray(np.full((30, 26), 2, np.uint8)).save(tmp_path / "1-mask.png")
    with pytest.raises(InvalidManifest, match="class 2"):
        train_segmenter(start, manifest, tmp_path / "out", ["a", "b"], QUICK, leaky=True)
    with pytest.raises(UnsupportedOption, match="different"):
        train_segmenter(start, manifest, tmp_path / "out", ["a", "a"], QUICK)
