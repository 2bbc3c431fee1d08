"""Segmentation by a light decoder, and its answer as a GeoTIFF; augmentation of chips; manifests of two corpora."""

from __future__ import annotations

import csv
import io
from collections import Counter

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

import hub
from domains.sar.finetune import move_and_mirror
from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.corpora import long_tail, mstar, opensarship, statistics
from domains.sar.nereus.modeling import NereusModel
from domains.sar.nereus.processing import NereusProcessor
from domains.sar.nereus.scenes import cut
from domains.sar.nereus.segmenting import Schedule, train_segmenter
from domains.sar.raster import Raster
from hub.errors import InvalidManifest, UnsupportedOption
from hub.publishing import save_checkpoint
from hub.reading import Sample
from hub.training.collation import seeded_generator

SMALL = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1], "layer_type": "basic"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    processor = NereusProcessor(32, -2.5, 6.0, (-30.0, 30.0), "image", crop=24)
    save_checkpoint(folder, NereusModel(NereusConfig(**SMALL)), processor)
    return folder


@pytest.fixture(scope="module")
def coasts(tmp_path_factory: pytest.TempPathFactory):
    """Dark water left of a shore line, brighter land right of it, 8 dB apart, in four-look speckle."""
    folder = tmp_path_factory.mktemp("coasts")
    random = np.random.default_rng(0)
    lines = ["file,label,split"]
    for number in range(10):
        shore = 8 + 2 * number + random.integers(-3, 4, 40).cumsum() // 4
        land = (np.arange(48)[None] >= shore[:, None]).astype(np.uint8)
        power = np.where(land, 6.3, 1.0) * random.gamma(4, 0.25, land.shape)
        where = {"driver": "GTiff", "height": 40, "width": 48, "count": 1, "crs": "EPSG:32630"}
        where["transform"] = from_origin(500_000, 4_000_000 - 1000 * number, 10, 10)
        with rasterio.open(folder / f"{number}.tif", "w", dtype="float32", **where) as file:
            file.write(np.sqrt(power).astype(np.float32) * 100, 1)
        with rasterio.open(folder / f"{number}-land.tif", "w", dtype="uint8", **where) as file:
            file.write(land, 1)
        lines.append(f"{number}.tif,{number}-land.tif,{'test' if number % 3 == 2 else 'train'}")
    (folder / "coasts.csv").write_text("\n".join(lines))
    return folder


def test_a_decoder_learns_water_from_land_and_serves_it(encoder, coasts, tmp_path) -> None:
    out = tmp_path / "coast"
    schedule = Schedule(steps=80, batch_size=4)
    results = train_segmenter(encoder, coasts / "coasts.csv", out, ("water", "land"), schedule, size=40)
    # Land everywhere would reach an intersection over union of 0.6 for land and 0 for water.
    assert results["iou"]["water"] > 0.75 and results["iou"]["land"] > 0.8
    embedder = hub.from_pretrained(out)
    plain = hub.from_pretrained(encoder)
    # Pixels outside a centre crop have classes too, so whole images are seen, and at the size asked for.
    assert (embedder.processor.crop, embedder.processor.size) == (0, 40)
    plain.processor = embedder.processor
    np.testing.assert_allclose(
        embedder.embed(coasts / "2.tif").vectors, plain.embed(coasts / "2.tif").vectors, atol=1e-5
    )
    answer = embedder.run("segment", [coasts / "2.tif"])[0]
    assert answer.media_type == "image/tiff"
    with rasterio.open(io.BytesIO(answer.content)) as given, rasterio.open(coasts / "2-land.tif") as truth:
        assert given.crs == truth.crs and given.transform == truth.transform
        assert given.tags()["class_0"] == "water" and given.tags()["class_1"] == "land"
        assert (given.read(1) == truth.read(1)).mean() > 0.85


def test_sets_that_cannot_be_segmented_are_refused(encoder, coasts, tmp_path) -> None:
    bad = coasts / "bad.csv"
    for line, text in (
        ("0.tif,1.tif,train\n2.tif,2-land.tif,train", "splits train and test"),
        ("0.tif,nothing.tif,train\n2.tif,2-land.tif,test", "no GeoTIFF or PNG"),
    ):
        bad.write_text(f"file,label,split\n{line}\n")
        with pytest.raises(InvalidManifest, match=text):
            train_segmenter(encoder, bad, tmp_path / "x", ("water", "land"), Schedule(steps=1))
    with rasterio.open(coasts / "small.tif", "w", driver="GTiff", height=9, width=9, count=1, dtype="uint8") as file:
        file.write(np.ones((9, 9), np.uint8), 1)
    bad.write_text("file,label,split\n0.tif,small.tif,train\n2.tif,2-land.tif,test\n")
    with pytest.raises(InvalidManifest, match="9 x 9"):
        train_segmenter(encoder, bad, tmp_path / "x", ("water", "land"), Schedule(steps=1))
    with pytest.raises(UnsupportedOption, match="two different names"):
        train_segmenter(encoder, coasts / "coasts.csv", tmp_path / "x", ("water", "water"), Schedule(steps=1))


def test_augmenting_moves_and_mirrors_the_azimuth_alone() -> None:
    image = np.arange(40 * 50, dtype=np.float32).reshape(40, 50) + 1
    sample = Sample(Raster.from_array(image), "chip")
    seen = [move_and_mirror(sample, seeded_generator(number)) for number in range(20)]
    mirrored = 0
    for one in seen:
        values = one.data.values[0]
        assert one.key == "chip" and sorted(values.ravel()) == sorted(image.ravel())
        # Down a column values grow by 50 wherever they do not wrap round: range is never mirrored.
        assert (np.diff(values[:, 0]) == 50).sum() >= 38
        mirrored += (np.diff(values[0]) == -1).sum() > 40
    assert 3 < mirrored < 17
    assert len({one.data.values.tobytes() for one in seen}) > 10


def test_manifests_and_statistics_of_chips(tmp_path) -> None:
    random = np.random.default_rng(0)
    rows = []
    for number, angle in enumerate((17, 17, 15)):
        chip = np.sqrt(random.exponential(1.0, (64, 64))).astype(np.float32) * 100
        np.save(tmp_path / f"{number}.npy", chip)
        rows.append(f"{number}.npy,T72,{angle}")
    (tmp_path / "labels.csv").write_text("file,label,depression_deg\n" + "\n".join(rows))
    labelled, heard, *_ = mstar(tmp_path, tmp_path / "sets")
    with labelled.open() as stream:
        assert [r["split"] for r in csv.DictReader(stream)] == ["train", "train", "test"]
    with heard.open() as stream:
        assert [r["file"] for r in csv.DictReader(stream)] == ["../0.npy", "../1.npy"]
    found = statistics(heard, 64, 0, (-40.0, 40.0), "image")
    # One-look speckle: -2.51 and 5.57 dB.
    assert found["images"] == "2"
    assert float(found["mean"]) == pytest.approx(-2.51, abs=0.15)
    assert float(found["std"]) == pytest.approx(5.57, abs=0.15)


def test_a_long_tail_falls_geometrically_and_differs_from_seed_to_seed() -> None:
    rows = [{"file": f"{label}{i}", "label": label} for label in "abcdefghij" for i in range(100)]
    tails = [long_tail(rows, seed) for seed in (0, 0, 1)]
    assert tails[0] == tails[1] != tails[2]
    counts = sorted(Counter(r["label"] for r in tails[0]).values())
    assert counts == [round(100 * 0.08 ** (i / 9)) for i in range(9, -1, -1)]


def test_the_vv_band_of_ships_is_taken_by_its_place(tmp_path) -> None:
    power = np.stack([np.full((20, 20), value, np.float32) for value in (3, 7)])
    with rasterio.open(
        tmp_path / "two.tif", "w", driver="GTiff", height=20, width=20, count=2, dtype="float32"
    ) as file:
        file.write(power)
    (tmp_path / "labels.csv").write_text(
        "file,label,product,polarisation,ais_length_m\ntwo.tif,Cargo,grd,vh_vv,87\none.tif,Tanker,grd,vv,\n"
    )
    length, kind = opensarship(tmp_path, tmp_path / "sets")
    with length.open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["label"] == "87"
    with rasterio.open(tmp_path / "sets" / row["file"]) as file:
        assert file.count == 1 and (file.read(1) == 7).all()
    with kind.open() as stream:
        assert [r["file"] for r in csv.DictReader(stream)] == ["vv/two.tif", "../one.tif"]


def test_a_scene_is_cut_to_tiles_that_keep_their_place(tmp_path) -> None:
    values = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)
    where = {"driver": "GTiff", "height": 40, "width": 50, "count": 1, "crs": "EPSG:32630"}
    where["transform"] = from_origin(500_000, 4_000_000, 10, 10)
    for name, array in (("scene", values), ("labels", (values % 2).astype(np.uint8))):
        with rasterio.open(tmp_path / f"{name}.tif", "w", dtype=array.dtype, **where) as file:
            file.write(array, 1)
    there, back = cut(tmp_path / "scene.tif", tmp_path / "labels.tif", tmp_path / "tiles", 12)
    with there.open() as first, back.open() as second:
        pairs = list(zip(csv.DictReader(first), csv.DictReader(second), strict=True))
    # Two tiles across each half of 25 columns, three down.
    assert len(pairs) == 12 and all({a["split"], b["split"]} == {"train", "test"} for a, b in pairs)
    for row, _ in pairs:
        with rasterio.open(there.parent / row["file"]) as tile, rasterio.open(there.parent / row["label"]) as label:
            x, y = (tile.transform.c - 500_000) / 10, (4_000_000 - tile.transform.f) / 10
            assert (row["split"] == "train") == (x < 25)
            assert (tile.read(1) == values[int(y) : int(y) + 12, int(x) : int(x) + 12]).all()
            assert (label.read(1) == tile.read(1) % 2).all() and label.transform == tile.transform
    with pytest.raises(InvalidManifest, match="no tile of 30"):
        cut(tmp_path / "scene.tif", tmp_path / "labels.tif", tmp_path / "none", 30)


def test_targets_of_mstar_are_read_as_chips(shared_data) -> None:
    chips = sorted((shared_data / "sar" / "mstar" / "train_17deg").rglob("*.jpeg"))[::200]
    processor = NereusProcessor(64, -2.5, 6.0, (-20.0, 25.0), "image", crop=64)
    for chip in chips:
        (sample,) = processor.reader().read(hub.reading.Source.from_path(chip))
        seen = processor.prepare(sample)
        assert seen.shape == (1, 64, 64) and torch.isfinite(seen).all()
        # The target is in the middle, far above the clutter.
        assert float(seen[0, 16:48, 16:48].amax()) > 2
