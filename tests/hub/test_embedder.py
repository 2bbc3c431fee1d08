from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hub
from hub.errors import InvalidCheckpoint, InvalidInput, UnknownModel, UnsupportedOption
from hub.reading import Source


@pytest.fixture(scope="module")
def embedder(toy_checkpoint: Path) -> hub.Embedder:
    return hub.from_pretrained(toy_checkpoint)


def test_one_file_holds_many_samples_in_order(embedder, toy_files) -> None:
    result = embedder.embed(toy_files)
    assert result.items == [(str(path), f"{path.stem}{number}") for path in toy_files for number in range(3)]
    assert result.vectors.shape == (6, 8) and result.vectors.dtype == np.float32
    assert np.array_equal(np.asarray(result), result.vectors)


def test_padding_and_batching_change_nothing(embedder, toy_files) -> None:
    together = embedder.embed(toy_files).vectors
    alone = embedder.embed(toy_files, batch_cost=1).vectors
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_tokens_and_layers(embedder, toy_files) -> None:
    tokens = embedder.embed(toy_files[0], pooling="none")
    assert [t.shape for t in tokens] == [(5, 8), (12, 8), (40, 8)]
    mean = embedder.embed(toy_files[0])
    np.testing.assert_allclose(tokens[2].mean(0), mean[2], atol=1e-6)
    both = embedder.embed(toy_files[0], layer="all").vectors
    first, last = (embedder.embed(toy_files[0], layer=i).vectors for i in (0, 1))
    np.testing.assert_allclose(both, np.concatenate([first, last], 1), atol=1e-6)
    average = embedder.embed(toy_files[0], layer="average").vectors
    np.testing.assert_allclose(average, (first + last) / 2, atol=1e-6)


def test_plain_values_bytes_and_paths_agree(embedder, tmp_path) -> None:
    path = tmp_path / "a.num"
    path.write_text("x: 1 2 3")
    vectors = [
        embedder.embed(value).vectors
        for value in (path, str(path), Source.from_bytes(path.read_bytes(), "a.num"), {"numbers": [1, 2, 3]})
    ]
    for vector in vectors[1:]:
        np.testing.assert_array_equal(vector, vectors[0])


def test_bad_inputs_are_named_and_do_not_stop_the_rest(embedder, toy_files, tmp_path) -> None:
    bad, short = tmp_path / "bad.num", tmp_path / "short.num"
    bad.write_text("no colon here")
    short.write_text("empty:\nok: 1 2 3\ntiny: 1")
    with pytest.raises(InvalidInput, match=r"bad\.num: a line is not"):
        embedder.embed([toy_files[0], bad])
    result = embedder.embed([toy_files[0], bad, short, tmp_path / "absent.num"], on_error="collect")
    assert len(result) == 4 and result.items[-1] == (str(short), "ok")
    assert [e.code for e in sorted(result.errors, key=lambda e: e.code)] == [
        "empty",
        "file_not_found",
        "too_short",
        "unsupported_format",
    ]
    assert any(str(e).startswith(f"{short}[tiny]") for e in result.errors)
    assert embedder.embed([bad], on_error="collect").vectors.shape == (0, 8)


def test_unknown_options_name_what_there_is(embedder, toy_files) -> None:
    with pytest.raises(UnsupportedOption, match="choose one of none, mean, max, sum") as caught:
        embedder.embed(toy_files[0], pooling="median")
    assert caught.value.param == "pooling"
    with pytest.raises(UnsupportedOption, match="2 hidden states"):
        embedder.embed(toy_files[0], layer=2)
    with pytest.raises(UnsupportedOption, match="'average' or 'all'"):
        embedder.embed(toy_files[0], layer="some")


def test_further_tasks(embedder, toy_files) -> None:
    totals = embedder.run("total", toy_files[0])
    assert [round(t["total"], 3) for t in totals] == [2.5, 6.0, 20.0]
    assert embedder.run("table", {"numbers": [1, 2]})[0].media_type == "text/csv"
    with pytest.raises(UnsupportedOption, match="it offers: total, table"):
        embedder.run("classify", toy_files[0])


def test_random_twin_differs_and_repeats(embedder, toy_files) -> None:
    one, again, other = (embedder.random_twin(s).embed(toy_files[0]).vectors for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
    assert np.abs(one - embedder.embed(toy_files[0]).vectors).max() > 0.01


def test_names_that_lead_nowhere(toy, tmp_path) -> None:
    with pytest.raises(UnknownModel, match="neither a built-in name"):
        hub.from_pretrained("no-such-model")
    with pytest.raises(InvalidCheckpoint, match=r"holds no config\.json"):
        hub.from_pretrained(tmp_path)


def test_damaged_checkpoints_are_refused(toy_checkpoint, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(toy_checkpoint, folder)
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(InvalidCheckpoint, match="could not be loaded"):
        hub.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(InvalidCheckpoint, match="fmhub convert"):
        hub.from_pretrained(folder)


def test_a_checkpoint_of_other_sizes_is_refused(toy_checkpoint, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(toy_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 16}))
    with pytest.raises(InvalidCheckpoint):
        hub.from_pretrained(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(InvalidCheckpoint, match="names no model_type"):
        hub.from_pretrained(folder)


def test_half_precision_storage_loads_as_float32(toy, toy_checkpoint, tmp_path) -> None:
    from transformers import AutoModel

    from hub.publishing import halve_weights

    folder = tmp_path / "half"
    shutil.copytree(toy_checkpoint, folder)
    halve_weights(folder)
    size = [(f / "model.safetensors").stat().st_size for f in (folder, toy_checkpoint)]
    assert size[0] < size[1]
    for model in (hub.from_pretrained(folder).model, AutoModel.from_pretrained(folder)):
        assert model.dtype == torch.float32


def test_bfloat16_is_near(toy_checkpoint, toy_files, embedder) -> None:
    low = hub.from_pretrained(toy_checkpoint, dtype=torch.bfloat16).embed(toy_files[0]).vectors
    assert low.dtype == np.float32
    np.testing.assert_allclose(low, embedder.embed(toy_files[0]).vectors, atol=0.02)


def test_warm_up_tells_the_dimension(embedder) -> None:
    assert embedder.warm_up() == 8 == embedder.model.embedding_dimension()


def test_a_checkpoint_runs_nothing_and_is_not_unpickled(toy_checkpoint: Path, tmp_path: Path) -> None:
    folder, trace = tmp_path / "x", tmp_path / "trace"
    shutil.copytree(toy_checkpoint, folder)
    (folder / "theirs.py").write_text(f"open({str(trace)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    assert hub.from_pretrained(folder).model.config.model_type == config["model_type"]
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(InvalidCheckpoint):
        hub.from_pretrained(folder)
    assert not trace.exists()
