from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import hub
from hub.cli import main
from hub.errors import InvalidInput, InvalidManifest, UnsupportedOption
from hub.evaluation.evaluate import evaluate
from hub.evaluation.plots import draw_confusion, draw_map, pca_map
from hub.evaluation.report import report_text

FILES = ["confusion.png", "map.png", "report.json", "report.md"]


def strict(text: str) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def split_set(labelled_set: Path, out: Path, labels=None) -> Path:
    """The same rows with a fixed split by group, in a manifest elsewhere."""
    lines = labelled_set.read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    text = ["file,label,group,split,item"]
    for file, label, group, item in rows:
        split = "test" if group in ("speaker4", "speaker5") else "train"
        text.append(f"{labelled_set.parent / file},{(labels or {}).get(label, label)},{group},{split},{item}")
    out.write_text("\n".join(text))
    return out


@pytest.fixture(scope="module")
def embedder(toy_checkpoint):
    return hub.from_pretrained(toy_checkpoint)


def test_command_line_end_to_end(toy_checkpoint, labelled_set, tmp_path, monkeypatch, capsys) -> None:
    """In this process: that the command starts in one of its own is a contract test."""
    arguments = ["evaluate", str(toy_checkpoint), "--manifest", str(labelled_set), "--sweep", "--twins", "2"]
    monkeypatch.setattr(sys, "argv", ["fmhub", *arguments, "--report", str(tmp_path / "a/report")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed = strict(capsys.readouterr().out)
    assert set(printed["results"]) == {"model", "random_twin", "baseline", "gain_over_twin"}
    for line in printed["results"].values():
        assert set(line) == {"accuracy", "balanced_accuracy", "macro_auc"}
        for figures in line.values():
            assert {"mean", "spread", "folds", "interval"} <= set(figures) and len(figures["folds"]) == 5
            assert figures["interval"][0] <= figures["mean"] <= figures["interval"][1]
    assert printed["results"]["model"]["accuracy"]["mean"] > 0.5
    assert len(printed["chosen_c"]["model"]) == 5 and len(printed["chosen_c"]["random_twin"]) == 10
    assert printed["groups"] == 6 and printed["retrieval"]["model"]["queries"] == 54
    folder = tmp_path / "a/report"
    assert sorted(p.name for p in folder.iterdir()) == FILES
    kept = strict((folder / "report.json").read_text())
    assert {k: kept[k] for k in printed} == printed
    assert sum(map(sum, kept["confusion"]["counts"])) == 54
    text = (folder / "report.md").read_text()
    for words in ("random twin", "baseline", "RankMe", "recall@1", "rising", "map.png", "fmhub evaluate toy-random"):
        assert words in text
    for name in ("map.png", "confusion.png"):
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG") and str(labelled_set.parent.name).encode() not in content
    for content in (text, json.dumps(kept)):
        for private in (str(tmp_path), str(labelled_set.parent), "user-secret-folder", str(toy_checkpoint.parent)):
            assert private not in content
        assert "--manifest trends.csv" in content
        assert not re.search(r"(?<![\w.)])/\w", content)  # nothing that starts as an absolute path does


def test_bad_options_and_sets_are_one_line(embedder, labelled_set, tmp_path) -> None:
    with pytest.raises(UnsupportedOption, match="none of linear, knn, nb"):
        evaluate(embedder, [labelled_set], probe="svm")
    with pytest.raises(UnsupportedOption, match="one vector a sample"):
        evaluate(embedder, [labelled_set], pooling="none")
    text = labelled_set.read_text().replace("take", f"{labelled_set.parent}/take")
    (tmp_path / "wrong.csv").write_text(text.replace(",s1\n", ",nowhere\n", 1))
    with pytest.raises(InvalidManifest, match="names 0 of its 9 samples"):
        evaluate(embedder, [tmp_path / "wrong.csv"])
    (tmp_path / "leak.csv").write_text(text.replace("speaker5,s8", "speaker0,s8") + text.splitlines()[-1])
    with pytest.raises(InvalidManifest, match="same sample"):
        evaluate(embedder, [tmp_path / "leak.csv"])


def test_a_fixed_split_is_resampled_and_numbers_can_be_labels(embedder, labelled_set, tmp_path) -> None:
    words = {"rising": "10", "falling": "9", "level": "007"}
    manifest = split_set(labelled_set, tmp_path / "fixed.csv", words)
    summary = evaluate(embedder, [str(manifest)], probe="nb", twins=1, report=str(tmp_path / "report"))
    assert summary["folds"] == 1 and "bootstrap" in summary["interval"]["method"]
    line = summary["results"]["model"]["accuracy"]
    assert line["spread"] == 0.0 and line["interval"][0] < line["mean"] < line["interval"][1]
    assert list(summary["per_class"]) == ["007", "9", "10"]
    assert "±" not in (tmp_path / "report/report.md").read_text()
    again = evaluate(embedder, [manifest], probe="nb", twins=1)
    assert again == summary


def test_repeated_manifests_add_their_folds(embedder, labelled_set, tmp_path) -> None:
    first = split_set(labelled_set, tmp_path / "one.csv")
    second = tmp_path / "two.csv"
    second.write_text(first.read_text().replace("speaker4,test", "speaker4,train"))
    both = evaluate(embedder, [first, second], probe="knn", neighbours=3, twins=1)
    alone = [evaluate(embedder, [m], probe="knn", neighbours=3, twins=1) for m in (first, second)]
    assert both["rows"] == 54 and both["folds"] == 2
    for name in both["results"]:
        for metric in ("accuracy", "macro_auc"):
            expected = [a["results"][name][metric]["folds"][0] for a in alone]
            assert both["results"][name][metric]["folds"] == expected
    shots = evaluate(embedder, [first], shots=2, folds=4, twins=0)
    assert shots["folds"] == 4 and "random_twin" not in shots["results"]


def test_embeddings_are_those_of_embed_and_computed_once(embedder, labelled_set, monkeypatch) -> None:
    from hub.evaluation.contenders import embed_contenders
    from hub.manifest import read_manifest

    keys = [(r.file, r.span, r.item) for r in read_manifest(labelled_set)]
    expected = embedder.embed(sorted({file for file, _, _ in keys})).vectors
    prepared: list[str] = []
    prepare = embedder.prepare
    monkeypatch.setattr(embedder, "prepare", lambda sample, source: prepared.append(source) or prepare(sample, source))
    found = embed_contenders(embedder, keys, twins=2)
    assert len(prepared) == len(keys)
    np.testing.assert_allclose(found["model"][0], expected, atol=1e-6)
    twin = embedder.random_twin(1).embed(sorted({file for file, _, _ in keys})).vectors
    np.testing.assert_allclose(found["random_twin"][1], twin, atol=1e-6)
    assert found["baseline"][0].shape == (54, 2)


def test_baselines_of_unlike_samples_are_averaged_or_refused(embedder, labelled_set, monkeypatch) -> None:
    """A baseline may tell the parts of a sample apart; two recordings need not have the same channels."""
    from hub.evaluation.contenders import AVERAGED, embed_contenders
    from hub.manifest import read_manifest

    keys = [(r.file, r.span, r.item) for r in read_manifest(labelled_set)][:3]
    found = {
        "alike": [{"Fz": [1, 2], "Cz": [3, 4]}, {"Cz": [7, 8], "Fz": [5, 6]}, {"Fz": [0, 0], "Cz": [1, 1]}],
        "unlike": [{"Fz": [1, 2], "Cz": [3, 4]}, {"Cz": [7, 8]}, {"O1": [0, 0], "Cz": [1, 1]}],
        "lengths": [[1.0, 2.0], [1.0], [1.0, 2.0]],
    }
    expected = {"alike": [[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 1, 1]], "unlike": [[2, 3], [7, 8], [0.5, 0.5]]}
    for name, rows in found.items():
        answers, notes = iter(rows), []
        monkeypatch.setattr(type(embedder.system.domain), "load", lambda *_, a=answers: lambda sample: next(a))
        if name == "lengths":
            with pytest.raises(InvalidInput, match=r"baseline makes 1 numbers of this file and 2 of take0\.num"):
                embed_contenders(embedder, keys, twins=0)
            continue
        table = embed_contenders(embedder, keys, twins=0, on_note=notes.append)["baseline"][0]
        np.testing.assert_array_equal(table, expected[name])
        assert notes == ([AVERAGED] if name == "unlike" else [])


def test_rows_mean_what_their_domain_says_and_notes_are_reported(embedder, labelled_set, tmp_path, monkeypatch) -> None:
    """Rows that name no sample of their file are completed as they are for fine-tuning."""
    from dataclasses import replace

    from hub.evaluation import evaluate as module
    from hub.finetuning.options import Preset

    lines = labelled_set.read_text().replace("take", f"{labelled_set.parent}/take").splitlines()
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(line if n % 9 or not n else line.rsplit(",", 1)[0] + "," for n, line in enumerate(lines)))
    with pytest.raises(InvalidManifest, match="item '' names 9 of its 9 samples"):
        evaluate(embedder, [bare], twins=0)

    def complete(rows, leaky: bool):
        assert leaky  # an evaluation trains nothing: it takes sets without groups
        return [r if r.item else replace(r, item="s8") for r in rows]

    monkeypatch.setattr(module, "preset_of", lambda domain: Preset(rows=complete))
    summary = evaluate(embedder, [bare], twins=0)
    expected = evaluate(embedder, [labelled_set], twins=0)
    assert summary["results"] == expected["results"] and summary["notes"] == []
    data = {**summary, "notes": ["Mind this."], "command": "fmhub", "versions": {}}
    assert "\n\nMind this.\n\n" in report_text(data)


def test_an_embedding_that_is_not_finite_is_named(embedder, labelled_set, monkeypatch) -> None:
    monkeypatch.setattr(embedder, "forward", lambda batch, *_: [np.full(8, np.nan, np.float32) for _ in batch])
    with pytest.raises(InvalidInput, match=r"take0\.num: the model's embedding"):
        evaluate(embedder, [labelled_set], twins=0)


# --- pictures and text --------------------------------------------------------------------------------------------


def test_map_is_the_principal_plane() -> None:
    generator = np.random.default_rng(0)
    line = generator.normal(size=(50, 1)) @ np.array([[1.0, -2.0, 3.0]])
    points, shares = pca_map(line)
    assert shares == pytest.approx([1, 0], abs=1e-12) and np.abs(points[:, 1]).max() < 1e-9
    np.testing.assert_allclose(pca_map(line * 3)[0], points, atol=1e-9)
    for narrow in (line[:, :1], np.ones((4, 3))):
        assert pca_map(narrow)[0].shape == (len(narrow), 2) and np.isfinite(pca_map(narrow)[0]).all()


def test_pictures_take_many_and_strange_labels(tmp_path, monkeypatch) -> None:
    import importlib.util
    import types

    labels = np.array([f"$_{i}^" if i % 2 else "_" + "x" * i for i in range(60)] * 2)
    matrix = np.random.default_rng(0).normal(size=(120, 4))
    draw_map(tmp_path / "map.png", {"model": matrix, "baseline": matrix[:, :1]}, labels, "a $b$ | _c")
    draw_confusion(tmp_path / "confusion.png", ["$a$", "_b"], np.array([[3, 0], [0, 0]]), "$")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("map.png", "confusion.png"))

    class Umap:
        def __init__(self, **options) -> None:
            assert options == {"n_components": 2, "random_state": 0}

        def fit_transform(self, values):
            return values[:, :2]

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "umap" or find(name))
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    draw_map(tmp_path / "both.png", {"model": matrix}, labels, "with UMAP")
    assert (tmp_path / "both.png").stat().st_size > 5000


def test_text_says_when_a_gain_cannot_be_told(embedder, labelled_set) -> None:
    data = evaluate(embedder, [labelled_set], probe="knn", twins=1)
    data |= {"command": "fmhub", "versions": {}}
    for interval, words in (([-0.1, 0.3], "cannot be told"), ([0.1, 0.3], "more than chance"), ([-2, -1], "worse")):
        data["results"]["gain_over_twin"]["balanced_accuracy"] |= {"mean": 0.1, "interval": interval}
        assert words in report_text(data)
    data["results"]["model"]["macro_auc"] = {"mean": None, "spread": 0.0, "interval": None, "folds": [None]}
    data["per_class"] = {"a|b": data["per_class"]["level"]}
    text = report_text(data)
    assert "| macro AUC | - |" in text and "a\\|b" in text and "None" not in text and "nan" not in text
