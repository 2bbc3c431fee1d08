from __future__ import annotations

from pathlib import Path

import pytest

from hub.errors import InvalidManifest, UnsupportedOption
from hub.finetuning.data import LabelledSamples
from hub.finetuning.run import finetune
from hub.finetuning.splitting import Parts, check_parts, split
from hub.finetuning.targets import Targets
from hub.manifest import Row, read_manifest
from hub.reading import Span


def rows_of(*labels: str, **more: str) -> list[Row]:
    return [Row(Path(f"f{i}"), label=label, **more) for i, label in enumerate(labels)]


def test_labels_are_ordered() -> None:
    assert Targets.from_rows(rows_of("b", "a", "b"), "classification").labels == ("a", "b")
    assert Targets.from_rows(rows_of("10", "9", "-1"), "classification").labels == ("-1", "9", "10")
    assert Targets.from_rows(rows_of("b", "a"), "classification", ("b", "c", "a")).labels == ("b", "c", "a")
    assert Targets.from_rows(rows_of("1;0", ";1"), "multilabel").labels == ("0", "1")


@pytest.mark.parametrize(
    ("task", "labels", "names", "text"),
    [
        ("classification", ("a", "b"), ("a",), r"row 2 \(f1\): label 'b' is none of a"),
        ("multilabel", ("1;0", "1;2"), (), r"row 2 \(f1\): '2', where 0, 1 or nothing is expected"),
        ("multilabel", ("1;0", "1"), (), r"row 2 \(f1\): 1 values separated by ';', where 2 are expected"),
        ("multilabel", ("1;0", ";"), (), r"row 2 \(f1\): no label is given"),
        ("regression", ("1.5", "much"), (), r"row 2 \(f1\): 'much', where a finite number"),
        ("regression", ("1.5", "inf"), (), r"row 2 \(f1\): 'inf', where a finite number"),
        ("regression", ("1.5", "nan"), (), r"row 2 \(f1\): 'nan', where a finite number"),
        ("frames", ("a;b", ";"), (), r"row 2 \(f1\): no label is given"),
        ("dense", ("1;2", "1;x"), (), r"row 2 \(f1\): 'x'"),
    ],
)
def test_bad_labels_are_named(task, labels, names, text) -> None:
    with pytest.raises(InvalidManifest, match=text):
        Targets.from_rows(rows_of(*labels), task, names)


def grouped(count: int = 60) -> list[Row]:
    return [Row(Path(f"f{i}"), label="ab"[i % 2], group=f"g{i % 10}") for i in range(count)]


def groups(rows: list[Row], numbers: list[int]) -> set[str]:
    return {rows[n].group for n in numbers}


def test_a_group_stays_on_one_side() -> None:
    rows = [Row(Path(f"f{i}"), label="ab"[i // 10 % 2], group=f"g{i % 10}") for i in range(100)]
    for seed in range(3):
        parts = split(rows, Targets.from_rows(rows, "classification"), 0.2, 0.2, seed)
        sides = [groups(rows, numbers) for _, numbers in parts.items()]
        assert all(sides) and sum(map(len, sides)) == 10
        assert sorted(parts.train + parts.valid + parts.test) == list(range(100))


def test_parts_of_a_recording_stay_on_one_side() -> None:
    rows = [
        Row(Path(f"f{i % 8}"), label="ab"[i // 8 % 2], span=Span(i, i + 1)) for i in range(64)
    ]  # each file holds both labels
    parts = split(rows, Targets.from_rows(rows, "classification"), 0.2, 0.25, 0)
    files = [{rows[n].file for n in numbers} for _, numbers in parts.items()]
    assert all(files) and sum(map(len, files)) == 8


def test_classes_keep_their_shares_and_numbers_are_split_too() -> None:
    rows = rows_of(*(["a"] * 80 + ["b"] * 20))
    parts = split(rows, Targets.from_rows(rows, "classification"), 0.0, 0.2, 0)
    assert sum(rows[n].label == "b" for n in parts.test) == 4 and not parts.valid
    rows = rows_of(*map(str, range(50)))
    parts = split(rows, Targets.from_rows(rows, "regression"), 0.2, 0.2, 0)
    assert [len(numbers) for _, numbers in parts.items()] == [32, 8, 10]


def test_a_split_column_is_obeyed() -> None:
    rows = rows_of(*"abab", split="train") + rows_of(*"ab", split="valid") + rows_of(*"ab", split="test")
    rows = [Row(Path(f"h{i}"), label=r.label, split=r.split) for i, r in enumerate(rows)]
    parts = split(rows, Targets.from_rows(rows, "classification"), 0.3, 0.3, 0)
    assert parts == Parts([0, 1, 2, 3], [4, 5], [6, 7])


def test_sets_that_cannot_be_split_are_refused() -> None:
    targets = Targets.from_rows(grouped(), "classification")
    for rows, text in (
        (rows_of("a", "b", "a", split="dev"), "split 'dev' is none of train, valid, test"),
        (rows_of("a", "b", "a", split="test"), "no row is left to train on|nothing can be held out"),
        (rows_of("a", "b", "a", group="one"), "all rows are of one group"),
    ):
        with pytest.raises(InvalidManifest, match=text):
            split(rows, targets, 0.0, 0.2, 0)
    rows = grouped()
    with pytest.raises(InvalidManifest, match="group 'g0' is in train and test"):
        check_parts(Parts([0, 1], [], [10]), rows, targets)
    with pytest.raises(InvalidManifest, match="f0 is in train and valid"):
        check_parts(Parts([0, 1], [2], []), [rows[0], rows[1], Row(Path("f0"), label="a")], targets)
    with pytest.raises(InvalidManifest, match="label 'b' is in the test part but not in the train part"):
        check_parts(Parts([0, 2], [], [1]), rows, targets)


def test_a_group_on_both_sides_of_the_column_is_refused(sets, quick, toy_checkpoint, tmp_path) -> None:
    row = {"values": [1, 2, 3], "label": "a", "group": "g"}
    rows = [{**row, "split": part} for part in ("train", "test")]
    with pytest.raises(InvalidManifest, match="group 'g' is in test and train"):
        finetune(toy_checkpoint, sets.write(rows), tmp_path / "out", {**quick, "task": "classification"})


def test_manifests_and_folders_that_cannot_be_used(sets, quick, toy_checkpoint, tmp_path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("file\nset.num\n")
    options = {**quick, "task": "classification"}
    with pytest.raises(InvalidManifest, match="no column 'label'"):
        finetune(toy_checkpoint, bad, tmp_path / "out", options)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UnsupportedOption, match="is not empty"):
        finetune(toy_checkpoint, sets.levels(), tmp_path / "full", options)
    with pytest.raises(UnsupportedOption, match="no augmentation"):
        finetune(toy_checkpoint, sets.levels(), tmp_path / "out", {**options, "mode": "full", "augment": True})


def test_samples_that_cannot_be_used_are_told_and_left_out(sets, toy) -> None:
    processor = toy.systems["sequences"].load("processor")()
    manifest = sets.write([{"values": [1.0, 2.0], "label": "a"}, {"values": [1.0], "label": "b"}])
    errors: list[str] = []
    samples = LabelledSamples(read_manifest(manifest), processor, lambda error: errors.append(str(error)))
    assert list(samples.costs) == [0] and len(errors) == 1 and "at least 2 are needed" in errors[0]
    several = [Row(manifest.with_suffix(".num"), label="a")]
    with pytest.raises(InvalidManifest, match="names 2 of the 2 samples"):
        LabelledSamples(several, processor)


def test_what_does_not_fit_in_memory_is_read_again(sets, toy, monkeypatch) -> None:
    import torch

    processor = toy.systems["sequences"].load("processor")()
    rows = read_manifest(sets.write([{"values": [1.0, 2.0], "label": "a"}, {"values": [3.0, 4.0], "label": "b"}]))
    monkeypatch.setattr("hub.finetuning.data.CACHE_BYTES", 9)
    samples = LabelledSamples(rows, processor)
    assert list(samples._kept) == [0]
    assert torch.equal(samples.view(1), torch.tensor([3.0, 4.0]))
