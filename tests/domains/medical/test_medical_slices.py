from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from domains.medical.hashing import difference_hash, hamming
from domains.medical.image import MedicalImage, from_slices
from domains.medical.samples import phantom, write_samples
from domains.medical.slice_reduction import DEFAULTS, SliceReduction
from domains.medical.slice_table import SliceTable, digest_of
from hub.cli import build
from hub.errors import InvalidManifest, UnsupportedOption
from hub.training.index import index_data
from hub.training.pretrain import build_task
from hub.training.recipe import load_recipe


@pytest.fixture(scope="module")
def volume() -> MedicalImage:
    """Twelve slices, each there three times with a little noise."""
    slices = np.repeat(phantom(12, 48, 40, 3), 3, axis=0)
    noise = np.random.default_rng(0).normal(0, 0.003, slices.shape)
    return MedicalImage((slices + noise).astype(np.float32)[None])


def test_no_kept_slice_is_like_another_and_each_one_left_out_is(volume: MedicalImage) -> None:
    found = SliceReduction("hash")(volume)
    hashes = np.array([difference_hash(s) for s in volume.slices()])
    kept = hamming(hashes[found.kept][:, None], hashes[found.kept])
    assert kept[~np.eye(len(kept), dtype=bool)].min() > 6
    assert found.stands_for is not None
    assert hamming(hashes, hashes[found.stands_for]).max() <= 6
    assert set(found.stands_for.tolist()) == set(found.kept.tolist())
    assert found.kept[0] == 0
    assert 3 <= len(found.kept) <= 14


def test_slices_are_taken_along_the_axis_they_were_acquired(volume: MedicalImage) -> None:
    turned = MedicalImage(from_slices(volume.slices(), 2), slice_axis=2)
    assert SliceReduction("hash")(turned).kept.tolist() == SliceReduction("hash")(volume).kept.tolist()


def test_mutual_information_knows_a_repeated_slice(volume: MedicalImage) -> None:
    found = SliceReduction("mutual_information", 1.3)(volume)
    thirds = found.kept // 3
    assert len(thirds) == len(set(thirds.tolist()))  # of three copies at most one
    same = MedicalImage(np.repeat(volume.values[:, :1], 4, axis=1))
    assert SliceReduction("mutual_information", 2.0)(same).kept.tolist() == [0]


def test_entropy_keeps_the_slices_with_most_in_them() -> None:
    values = np.zeros((1, 4, 32, 32), np.float32)
    values[0, 1, :8] = 1
    values[0, 2] = np.linspace(0, 1, 1024).reshape(32, 32)
    values[0, 3, :16] = 1
    found = SliceReduction("entropy", 0.5)(MedicalImage(values))
    assert found.kept.tolist() == [2, 3]
    assert found.scores == pytest.approx([0, 0.8113, 6, 1], abs=1e-3)


def test_embeddings_are_compared_by_their_direction(volume: MedicalImage) -> None:
    directions = np.repeat(np.eye(12, dtype=np.float32), 3, axis=0) * np.arange(1, 37, dtype=np.float32)[:, None]
    found = SliceReduction("embedding", 0.9)(volume, directions)
    assert found.kept.tolist() == list(range(0, 36, 3))
    with pytest.raises(UnsupportedOption, match="needs them"):
        SliceReduction("embedding")(volume)
    with pytest.raises(UnsupportedOption, match="for reduction by embedding"):
        SliceReduction("hash")(volume, directions)


@pytest.mark.parametrize(("by", "threshold"), [("hash", 65), ("entropy", 0), ("mutual_information", 0.9), ("ssim", 1)])
def test_what_cannot_be_is_refused(by: str, threshold: float) -> None:
    with pytest.raises(UnsupportedOption):
        SliceReduction(by, threshold)


@pytest.mark.parametrize("by", [by for by in DEFAULTS if by != "embedding"])
def test_a_single_slice_is_kept(by: str) -> None:
    assert SliceReduction(by)(MedicalImage(phantom(3, 32, 32, 0)[None, 1:2])).kept.tolist() == [0]


def test_the_command_writes_a_manifest_that_pretraining_reads(tmp_path: Path) -> None:
    write_samples(tmp_path)
    output = tmp_path / "kept.csv"
    result = CliRunner().invoke(
        build(["reduce-slices"]), ["reduce-slices", str(tmp_path), "-o", str(output), "--threshold", "10"]
    )
    assert result.exit_code == 0, result.output
    with output.open(newline="") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 6
    kept = {name: row["slices"].split(";") for name, row in rows.items()}
    assert kept["synthetic-picture.png"] == ["0"]
    series = rows["synthetic-series.zip"]
    assert int(series["of"]) == 24
    assert 0 < len(kept["synthetic-series.zip"]) < 24
    with (tmp_path / "kept.dropped.csv").open(newline="") as stream:
        dropped = [row for row in csv.DictReader(stream) if row["file"] == "synthetic-series.zip"]
    assert sorted([int(row["slice"]) for row in dropped] + [int(n) for n in kept["synthetic-series.zip"]]) == list(
        range(24)
    )
    assert all(-float(row["score"]) <= 10 and "10 bits" in row["reason"] for row in dropped)
    assert all(row["kept_slice"] in kept["synthetic-series.zip"] for row in dropped)

    from hub.domain import get_domain

    class Counting:
        def cost(self, sample: object) -> int:
            return 1

    domain = get_domain("medical")
    entries = index_data(output, domain, domain.load("reader")(), Counting(), on_error=print)  # type: ignore[arg-type]
    assert len(entries) == 6

    table = SliceTable.read(output)
    sample = next(iter(domain.load("reader")().read(_source(tmp_path / "synthetic-series.zip"))))
    found = table.kept(sample.data)
    assert found is not None
    assert found.tolist() == [int(n) for n in kept["synthetic-series.zip"]]
    assert table.kept(MedicalImage(sample.data.values + 1)) is None
    # LVM-Med then draws from the slices that are left.
    task, processor = build_task(load_recipe("lvm_med/tiny"))
    reduced = domain.systems["lvm_med"].load("collator")(processor, task.config, slice_table=str(output))
    assert len(reduced.prepare(sample)) == len(found)


def test_a_digest_tells_shapes_apart() -> None:
    values = np.zeros((1, 2, 8, 4), np.float32)
    assert digest_of(MedicalImage(values)) != digest_of(MedicalImage(values.reshape(1, 2, 4, 8)))


@pytest.mark.parametrize("slices", ["", "0;0", "-1", "0;4", "a"])
def test_a_damaged_table_is_refused_with_its_line(tmp_path: Path, slices: str) -> None:
    path = tmp_path / "kept.csv"
    path.write_text(f"file,slices,of,digest\na.nii,{slices},4,x\n")
    with pytest.raises(InvalidManifest, match="line 2"):
        SliceTable.read(path)


def test_a_manifest_without_slices_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "kept.csv"
    path.write_text("file,label\na.nii,1\n")
    with pytest.raises(InvalidManifest, match="'slices'"):
        SliceTable.read(path)


def test_embedding_and_model_belong_together(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        build(["reduce-slices"]), ["reduce-slices", str(tmp_path), "-o", str(tmp_path / "k.csv"), "--by", "embedding"]
    )
    assert isinstance(result.exception, UnsupportedOption)


def _source(path: Path) -> object:
    from hub.reading import Source

    return Source.from_path(path)
