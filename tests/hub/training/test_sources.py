"""Where samples come from: shards, dataset repositories, and the feature cache."""

from __future__ import annotations

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.errors import InvalidInput, InvalidManifest, InvalidRecipe
from hub.training.collation import Collator
from hub.training.data import TrainingData
from hub.training.feature_cache import FeatureCache
from hub.training.index import index_data, load_index, save_index
from hub.training.plan import BLOCKS_AT_ONCE, BatchPlan
from hub.training.pretrain import Sources, build_task, pretrain


@pytest.fixture(scope="module")
def parts(recipe):
    task, processor = build_task(recipe)
    return recipe.system.domain, processor, recipe.system.load("collator")(processor, task.config)


def data_of(parts, where, column="", told=None) -> TrainingData:
    domain, processor, collator = parts
    reader = processor.reader()
    on_error = (told if told is not None else []).append
    entries = index_data(where, domain, reader, collator, on_error, column=column)
    return TrainingData(entries, reader, collator, 0, column=column)


def samples_of(data: TrainingData) -> list[tuple[str, list[float]]]:
    return sorted((data.sample(i).key, data.sample(i).data.tolist()) for i in range(len(data)))


def write_tar(path, files) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def contents(many_files):
    return [(f.name, f.read_bytes()) for f in sorted(many_files.iterdir())]


def test_shards_hold_what_the_folder_holds(parts, many_files, contents, tmp_path) -> None:
    expected = samples_of(data_of(parts, many_files))
    write_tar(tmp_path / "a.tar", [*contents, ("notes.json", b"{}"), ("deep/er/bad.num", b"nonsense")])
    told: list[InvalidInput] = []
    tar = data_of(parts, tmp_path / "a.tar", told=told)
    assert samples_of(tar) == expected and len(told) == 1 and "a.tar[bad.num]" in str(told[0])
    # As the datasets library writes files, and as plain binary.
    structs = [{"bytes": content, "path": name} for name, content in contents]
    pq.write_table(pa.table({"audio": structs, "label": ["x"] * 8}), tmp_path / "b.parquet", row_group_size=3)
    parquet = data_of(parts, tmp_path / "b.parquet")
    assert samples_of(parquet) == expected and max(parquet.blocks) == 2
    pq.write_table(pa.table({"content": [c for _, c in contents]}), tmp_path / "c.parquet")
    assert samples_of(data_of(parts, tmp_path / "c.parquet")) == expected
    # A column of plain values, which is never taken without being named.
    plain = pa.table({"x": [{"numbers": [1.0, 2.0, 3.0]}, None], "y": [1, 2]})
    pq.write_table(plain, tmp_path / "d.parquet")
    with pytest.raises(InvalidManifest, match="0 of the columns x, y hold files; name the one"):
        data_of(parts, tmp_path / "d.parquet")
    with pytest.raises(InvalidManifest, match="no column 'z'; it has x, y"):
        data_of(parts, tmp_path / "d.parquet", column="z")
    told.clear()
    assert samples_of(data_of(parts, tmp_path / "d.parquet", "x", told)) == [("", [1.0, 2.0, 3.0])]
    assert "the row is empty" in str(told[0])


def test_damaged_shards_are_told_and_the_others_used(parts, contents, tmp_path) -> None:
    write_tar(tmp_path / "good.tar", contents)
    (tmp_path / "bad.tar").write_bytes(b"not a tar" * 200)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    told: list[InvalidInput] = []
    assert len(data_of(parts, tmp_path, told=told)) == 40
    assert sorted(str(e).split(": ")[0].rsplit("/", 1)[1] for e in told) == ["bad.parquet", "bad.tar"]


def test_of_a_dataset_repository_the_train_split_is_taken(parts, contents, tmp_path) -> None:
    for name, some in (("train-00000-of-00001.tar", contents[:2]), ("test-00000-of-00001.tar", contents[2:])):
        write_tar(tmp_path / name, some)
    assert len(data_of(parts, tmp_path)) == 10


def test_an_index_survives_being_saved(parts, contents, tmp_path) -> None:
    write_tar(tmp_path / "a.tar", contents)
    entries = data_of(parts, tmp_path / "a.tar").entries
    save_index(entries, tmp_path / "index.json")
    assert load_index(tmp_path / "index.json") == entries


def test_a_run_on_shards_reads_each_block_a_few_times_a_pass(recipe, parts, tmp_path, points) -> None:
    rows = [{"bytes": f"a: {n} {n + 1} 2 1".encode(), "path": f"{n}.num"} for n in range(60)]
    pq.write_table(pa.table({"file": rows}), tmp_path / "a.parquet", row_group_size=5)
    run = pretrain(recipe.with_training(steps=30, save_every=10, readers=1), tmp_path / "a.parquet", tmp_path / "run")
    assert len(points(run)) == 30


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=15),
    seed=st.integers(0, 3),
    cost=st.integers(1, 40),
)
def test_only_samples_of_a_few_blocks_meet(sizes, seed, cost) -> None:
    blocks = [number for number, size in enumerate(sizes) for _ in range(size)]
    plan = BatchPlan([1 + b % 3 for b in blocks], 10**6, 0, cost, seed, blocks=blocks)
    one_pass = plan._one_pass(0)
    assert sorted(i for batch in one_pass for i in batch) == list(range(len(blocks)))
    reads = 0
    held: list[int] = []
    for batch in one_pass:
        for block in (blocks[i] for i in batch):
            if block not in held:
                reads += 1
                held = [*held, block][-BLOCKS_AT_ONCE:]
    assert reads == len(sizes), "with room for a window's blocks, each is read once a pass"


def test_a_repository_that_is_not_there(parts, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InvalidManifest, match="no such folder or file, and not the name of a dataset repository"):
        data_of(parts, "/no/such/folder")


class Doubling(Collator):
    """Prepares something, and counts how often."""

    made = 0

    def prepare(self, sample):
        type(self).made += 1
        return {"values": torch.from_numpy(sample.data) * 2, "count": len(sample.data)}

    def view(self, prepared, generator):
        return prepared["values"]

    def collate(self, views, randomness):
        return self.processor.pad(views)


def test_the_cache_keeps_what_was_prepared_until_its_file_changes(parts, many_files, tmp_path) -> None:
    domain, processor, _ = parts
    collator = Doubling(processor, None)
    reader = processor.reader()
    entries = index_data(many_files, domain, reader, collator, on_error=lambda e: None)

    def data() -> TrainingData:
        cache = FeatureCache(tmp_path / "cache", collator, processor)
        return TrainingData(entries, reader, collator, 0, cache=cache)

    Doubling.made = 0
    first = [data().prepared(i) for i in range(len(entries))]
    again = [data().prepared(i) for i in range(len(entries))]
    assert Doubling.made == len(entries)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["values"], other["values"]) and one["count"] == other["count"]
    # A damaged entry is made anew; so is one whose file has changed, and one of another processor.
    kept = sorted((tmp_path / "cache").rglob("*.pt"))
    kept[0].write_bytes(b"damaged")
    [data().prepared(i) for i in range(len(entries))]
    assert Doubling.made == len(entries) + 1
    os.utime(entries[0].file, (1, 1))
    data().prepared(0)
    assert Doubling.made == len(entries) + 2
    other = type(processor)(scale=3.0)
    TrainingData(entries, reader, collator, 0, cache=FeatureCache(tmp_path / "cache", collator, other)).prepared(0)
    assert Doubling.made == len(entries) + 3
    # The same collator under another option may prepare something else.
    other_cache = FeatureCache(tmp_path / "cache", collator, processor, {"pretext": {"crop": 5}})
    TrainingData(entries, reader, collator, 0, cache=other_cache).prepared(0)
    assert Doubling.made == len(entries) + 4


def test_a_system_that_prepares_nothing_has_nothing_to_cache(recipe, many_files, tmp_path) -> None:
    with pytest.raises(InvalidRecipe, match="nothing to cache"):
        pretrain(recipe, Sources(many_files, cache=tmp_path / "cache"), tmp_path / "run")
