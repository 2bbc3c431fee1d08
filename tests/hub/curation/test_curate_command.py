from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hub.cli import main
from hub.manifest import read_manifest
from hub.training.pretrain import pretrain
from hub.training.recipe import load_recipe


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def fmhub(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[str, str]:
        """Run the command; return what it printed, or on stderr why it stopped."""
        monkeypatch.setattr(sys, "argv", ["fmhub", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return printed.out, printed.err if not ended.value.code else str(ended.value.code) + printed.err

    return call


def line(key: str, level: float, length: int = 6) -> str:
    return f"{key}: " + " ".join(f"{level + 0.1 * n:.3f}" for n in range(length))


@pytest.fixture
def folder(toy, tmp_path) -> Path:
    """27 samples in two files: three copies, one too short, one bad, two of one name. And a bad file."""
    data = tmp_path / "data"
    (data / "deeper").mkdir(parents=True)
    levels = np.linspace(-3, 3, 10)
    many = [line(f"a{n}", level) for n, level in enumerate(levels)]
    many += [line("copy1", levels[0]), line("copy2", levels[0]), line("short", 1, 1), "nan: 1 nan 2"]
    many += [line("twice", 2), line("twice", 1)]
    (data / "many.num").write_text("\n".join(many))
    more = [line(f"b, {n}", level, 9) for n, level in enumerate(levels - 0.31)]
    (data / "deeper" / "more.num").write_text("\n".join([*more, line("copy3", levels[0])]))
    (data / "bad.num").write_text("no numbers here")
    return data


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_becomes_a_manifest_that_pretraining_takes(folder, toy_checkpoint, fmhub, tmp_path) -> None:
    before = snapshot(folder)
    kept = tmp_path / "out" / "kept.csv"
    out, err = fmhub(
        "curate", toy_checkpoint, "--data", folder, "-o", kept, "--by", "duplicates", "--threshold", 0.999999
    )
    assert snapshot(folder) == before
    # Files in the order of the folder: deeper/more.num comes before many.num.
    assert "group of 4: kept" in out and "more.num[copy3], left out" in out
    rows, dropped = table(kept), table(tmp_path / "out" / "kept.dropped.csv")
    reasons = {row["item"] or Path(row["file"]).name: row["reason"] for row in dropped}
    assert set(reasons) >= {"a0", "copy1", "copy2", "short", "nan", "twice", "bad.num"}
    assert "near-duplicate" in reasons["copy1"] and "2 samples of its file are called 'twice'" in reasons["twice"]
    assert "not finite" in reasons["nan"] and "at least 2" in reasons["short"]
    assert "could not be used" in err and "bad.num: a line is not" in err
    assert {row["kept_item"] for row in dropped if row["item"] in ("a0", "copy1", "copy2")} == {"copy3"}
    assert len(rows) + len(dropped) == 13 + 14 + 1
    assert f"kept {len(rows)} of 23 samples" in out

    read = read_manifest(kept)
    assert {(row.file, row.item) for row in read} == {(Path(row["file"]), row["item"]) for row in rows}
    run = pretrain(load_recipe("sequences/tiny").with_training(steps=2), kept, tmp_path / "run")
    index = json.loads((run / "data_index.json").read_text())
    assert len(index) == len(rows)


def test_labels_groups_and_the_other_splits_stay(folder, toy_checkpoint, fmhub, tmp_path) -> None:
    """The manifest lies above the data, so paths stay relative; a row without item stands for its whole file."""
    lines = ["file,label,group,split,item,note"]
    lines += [f"data/many.num,x,g{n % 3},train,a{n},n{n}" for n in range(8)]
    lines += ["data/deeper/more.num,y,h,train,,", "data/many.num,x,t,test,a9,", "data/many.num,x,g0,train,absent,"]
    (tmp_path / "set.csv").write_text("\n".join(lines))
    options = ("--by", "balanced", "--keep", 0.5, "--levels", "6,2", "--diversity", 1, "--rounds", 2, "--seed", 3)
    out, err = fmhub("curate", toy_checkpoint, "--data", tmp_path / "set.csv", "-o", tmp_path / "kept.csv", *options)
    rows = table(tmp_path / "kept.csv")
    assert list(rows[0]) == ["file", "label", "group", "split", "item", "score", "cluster"]
    assert [r for r in rows if r["split"] == "test"] == [
        {"file": "data/many.num", "label": "x", "group": "t", "split": "test", "item": "a9", "score": "", "cluster": ""}
    ]
    train = [r for r in rows if r["split"] == "train"]
    assert len(train) == round(0.5 * (8 + 11)) and "taken over from other splits as they are: 1 rows" in out
    for row in train:
        assert (row["label"], row["group"][0]) == (("x", "g") if "many" in row["file"] else ("y", "h"))
    assert "[absent]: its file has no sample of this name" in err
    dropped = table(tmp_path / "kept.dropped.csv")
    assert len(dropped) == 8 + 11 - len(train) + 1
    assert {r["reason"] for r in dropped if r["item"] != "absent"} == {"its cluster had more samples than its share"}
    # What was written can be curated again.
    again = fmhub(
        "curate", toy_checkpoint, "--data", tmp_path / "kept.csv", "-o", tmp_path / "k2.csv", "--by", "prototype"
    )
    assert f"kept {round(0.8 * len(train))} of {len(train)} samples" in again[0]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "npy"])
def test_embeddings_on_disk_select_the_same(suffix, folder, toy_checkpoint, fmhub, tmp_path) -> None:
    # What a manifest cannot name is left out either way; a file of embeddings knows nothing of samples that failed.
    file = tmp_path / f"vectors.{suffix}"
    fmhub("embed", toy_checkpoint, folder, "-o", file)
    arguments = ("curate", toy_checkpoint, "--data", folder, "--by", "prototype", "--keep", 0.4, "-o")
    fmhub(*arguments, tmp_path / "anew.csv")
    out, err = fmhub(*arguments, tmp_path / "reused.csv", "--embeddings", file)
    assert "kept 9 of 23 samples" in out and f"bad.num: not in {file}" in err
    assert (tmp_path / "anew.csv").read_bytes() == (tmp_path / "reused.csv").read_bytes()


def test_by_target(folder, toy_checkpoint, fmhub, tmp_path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "wanted.num").write_text("\n".join(line(f"t{n}", 2.9 + 0.01 * n) for n in range(3)))
    arguments = ("curate", toy_checkpoint, "--data", folder, "--by", "target", "-o", tmp_path / "kept.csv")
    out, _ = fmhub(*arguments, "--target", target, "--keep", 0.1, "--clusters", 2)
    assert "kept 2 of 23" in out and "less similar to the target set" in out
    assert {row["item"] for row in table(tmp_path / "kept.csv")} <= {"a8", "a9", "b, 8", "b, 9"}
    assert "--target names the target set" in fmhub(*arguments)[1]


def test_what_cannot_be_is_said_in_one_line(folder, toy_checkpoint, fmhub, tmp_path) -> None:
    def said(data: Path, *more: object, output: Path = tmp_path / "kept.csv") -> str:
        out, err = fmhub("curate", toy_checkpoint, "--data", data, "-o", output, *(more or ("--by", "balanced")))
        assert not out and "Traceback" not in err
        return err

    (tmp_path / "empty").mkdir()
    assert "holds no file that" in said(tmp_path / "empty")
    (tmp_path / "hopeless").mkdir()
    (tmp_path / "hopeless" / "x.num").write_text("no numbers")
    assert "not one of 1 samples has an embedding; the first: " in said(tmp_path / "hopeless")
    assert "no such manifest" in said(tmp_path / "absent.csv")
    (tmp_path / "tests.csv").write_text("file,split\ndata/many.num,test\n")
    assert "no row of the train split" in said(tmp_path / "tests.csv")
    manifest = tmp_path / "set.csv"
    manifest.write_text("file\ndata/many.num\n")
    assert "would overwrite" in said(manifest, output=manifest)
    assert "name a CSV file" in said(manifest, output=tmp_path / "kept.parquet")
    assert "no option 'threshold'" in said(manifest, "--by", "balanced", "--threshold", 0.9)
    assert "as 100,10" in said(manifest, "--by", "balanced", "--levels", "many")
    assert "asks for 99 clusters" in said(manifest, "--by", "prototype", "--clusters", 99)
    assert "pooling" in said(manifest, "--by", "prototype", "--pooling", "none")
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["set.csv", "tests.csv"]

    for name, content in (
        ("x.parquet", b"PAR1"),
        ("x.jsonl", b'{"key": 1}\n'),
        ("x.npy", b"\x80\x04."),
        ("x.txt", b""),
    ):
        (tmp_path / name).write_bytes(content)
        assert "embeddings file" in said(manifest, "--by", "prototype", "--embeddings", tmp_path / name)
    np.save(tmp_path / "wide.npy", np.zeros((1, 5), np.float32))
    (tmp_path / "wide.npy.items.csv").write_text("source,key\nx.num,a\n")
    assert "5 dimensions, and" in said(manifest, "--by", "prototype", "--embeddings", tmp_path / "wide.npy")
    np.save(tmp_path / "wide.npy", np.zeros((1, 8), np.float32))
    assert "not one of 1 samples" in said(manifest, "--by", "prototype", "--embeddings", tmp_path / "wide.npy")
    manifest.write_text("file,start\ndata/many.num,1\n")
    assert "start, stop" in said(manifest, "--by", "prototype", "--embeddings", tmp_path / "wide.npy")


def test_parts_of_real_recordings(shared_data, fmhub, tmp_path) -> None:
    """Two halves of each recording, and the first again: curated to a manifest that pretraining takes."""
    clips = sorted((shared_data / "speech" / "librispeech").rglob("*.flac"))[:8]
    lines = ["file,start,stop"] + [
        f"{clip},{start},{stop}" for clip in clips for start, stop in ((0, 2), (2, 4), (0, 2))
    ]
    (tmp_path / "parts.csv").write_text("\n".join(lines))
    out, _ = fmhub(
        "curate", "tera-tiny", "--data", tmp_path / "parts.csv", "-o", tmp_path / "kept.csv", "--by", "duplicates"
    )
    assert "kept 16 of 24 samples" in out and out.count("group of 2") == 5 and "and 3 smaller groups" in out
    assert [(row["start"], row["stop"]) for row in table(tmp_path / "kept.csv")] == [("0.0", "2.0"), ("2.0", "4.0")] * 8
    run = pretrain(load_recipe("tera/tiny").with_training(steps=2), tmp_path / "kept.csv", tmp_path / "run")
    assert len(json.loads((run / "data_index.json").read_text())) == 16
