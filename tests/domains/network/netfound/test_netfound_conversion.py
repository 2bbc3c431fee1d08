from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import hub
from domains.network.netfound.conversion import convert
from domains.network.netfound.modeling import NetFoundModel
from domains.network.samples import write_samples
from hub.errors import InvalidCheckpoint

WIDTH, INNER, WORDS = 16, 24, 65_540


def published_names(generation: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file of two layers with heads of width 8."""
    base, block = "base_transformer.", {}
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        block |= {f"attention.{name}.weight": (WIDTH, WIDTH), f"attention.{name}.bias": (WIDTH,)}
    norms = ["attention.output.LayerNorm"] + (["output.LayerNorm"] if generation == 1 else [])
    block |= {f"{name}.{part}": (WIDTH,) for name in norms for part in ("weight", "bias")}
    if generation == 2:
        block |= {"mlp_norm.weight": (WIDTH,), "mlp.Wi.weight": (2 * INNER, WIDTH), "mlp.Wo.weight": (WIDTH, INNER)}
    else:
        block |= {"intermediate.dense.weight": (INNER, WIDTH), "intermediate.dense.bias": (INNER,)}
        block |= {"output.dense.weight": (WIDTH, INNER), "output.dense.bias": (WIDTH,)}
    length = 73 if generation == 2 else 109
    embeddings = {
        "word_embeddings.weight": (WORDS, WIDTH),
        "token_type_embeddings.weight": (2, WIDTH),
        "LayerNorm.weight": (WIDTH,),
        "LayerNorm.bias": (WIDTH,),
        "metaEmbeddingLayer1.weight": (32, 4),
        "metaEmbeddingLayer1.bias": (32,),
        "metaEmbeddingLayer2.weight": (WIDTH, 32),
        "metaEmbeddingLayer2.bias": (WIDTH,),
        "protoEmbedding.weight": (18, WIDTH),
        "compressEmbeddings.weight": (WIDTH, 3 * WIDTH),
        "compressEmbeddings.bias": (WIDTH,),
    }
    if generation == 1:
        embeddings["position_embeddings.weight"] = (length, WIDTH)
    names = {f"{base}embeddings.{k}": v for k, v in embeddings.items()}
    for layer in range(2):
        for kind in ("burst", "flow"):
            names |= {f"{base}encoder.layer.{layer}.{kind}_encoder.{k}": v for k, v in block.items()}
    names[f"{base}encoder.layer.1.position_embeddings.weight"] = (13, WIDTH)
    names |= {f"{base}encoder.burst_positions.weight": (length, 8), f"{base}encoder.flow_positions.weight": (13, 8)}
    return names | pooling_names()


def pooling_names() -> dict[str, tuple[int, ...]]:
    return {
        "attentivePooling.lin_proj.weight": (WIDTH, WIDTH),
        "attentivePooling.lin_proj.bias": (WIDTH,),
        "attentivePooling.v.weight": (1, WIDTH),
    }


def pretext_names(generation: int) -> dict[str, tuple[int, ...]]:
    names: dict[str, tuple[int, ...]] = {"lm_head.bias": (WORDS,)}
    for name, rows in (("swappedClassifierHiddenLayer", 2), ("linearMetadataPred", 3), ("dirPred", 2)):
        names |= {f"{name}.weight": (rows, WIDTH), f"{name}.bias": (rows,)}
    names |= {"lm_head.dense.weight": (WIDTH, WIDTH), "lm_head.dense.bias": (WIDTH,)}
    names |= {"lm_head.layer_norm.weight": (WIDTH,), "lm_head.layer_norm.bias": (WIDTH,)}
    if generation == 1:
        names |= {"portClassifierHiddenLayer.weight": (50, WIDTH), "portClassifierHiddenLayer.bias": (50,)}
    return names


def write_published(folder: Path, names: dict[str, tuple[int, ...]], **settings: object) -> dict[str, Tensor]:
    torch.manual_seed(0)
    weights = {name: 0.1 * torch.randn(shape) for name, shape in names.items()}
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    # Beside the model's own keys the published files hold the arguments of their training.
    beside = {"_n_gpu": 1, "adam_beta1": 0.9, "fsdp_config": {}, "max_bursts": 12, "metadata_loss_weight": 0.4}
    (folder / "config.json").write_text(json.dumps({"model_type": "netFound", **beside, **settings}))
    return weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMHUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("generation", [2, 1])
def test_a_published_folder_loads_by_its_name(generation: int, tmp_path: Path) -> None:
    names = published_names(generation) | pretext_names(generation)
    weights = write_published(tmp_path / "published", names, model_type="netFound" if generation == 2 else "NetFound")
    embedder = hub.from_pretrained(tmp_path / "published")
    config, processor = embedder.model.config, embedder.processor
    assert (config.generation, config.num_attention_heads, config.num_hidden_layers) == (generation, 2, 2)
    assert (config.intermediate_size, config.max_burst_length) == (INNER, 73 if generation == 2 else 109)
    assert config.metadata_loss_weight == 0.4 and processor.strip_payload == (generation == 2) and processor.compat
    if generation == 2:
        table = weights["base_transformer.encoder.flow_positions.weight"]
        assert torch.equal(embedder.model.flow_positions, table), "the published tables are no sinusoids"
    else:
        learned = weights["base_transformer.embeddings.position_embeddings.weight"]
        assert torch.equal(embedder.model.embedding.positions.weight, learned)
    assert embedder.embed(write_samples(tmp_path)[0]).vectors.shape[1] == WIDTH


@pytest.mark.parametrize(
    ("problem", "task", "answer"),
    [
        ("single_label_classification", "classify", {"label", "scores"}),
        ("multi_label_classification", "classify", {"labels", "scores"}),
        ("regression", "regress", {"values"}),
    ],
)
def test_a_model_fine_tuned_with_the_published_code_answers(
    problem: str, task: str, answer: set[str], tmp_path: Path
) -> None:
    names = published_names(2) | {"classifier.weight": (3, WIDTH), "classifier.bias": (3,)}
    for layer in ("hiddenLayer", "hiddenLayer2"):
        names |= {f"{layer}.weight": (WIDTH, WIDTH), f"{layer}.bias": (WIDTH,)}
    labels = {"0": "chat", "1": "mail", "2": "web"}
    write_published(tmp_path / "tuned", names, problem_type=problem, id2label=labels)
    embedder = hub.from_pretrained(tmp_path / "tuned")
    results = embedder.run(task, write_samples(tmp_path)[0])
    assert set(results[0]) == answer
    assert set(results[0].get("scores") or results[0]["values"]) == {"chat", "mail", "web"}


def test_ablations_leave_out_what_has_no_use(tmp_path: Path) -> None:
    write_published(tmp_path / "flat", published_names(2) | pretext_names(2), flat=True, no_meta=True, no_mlm=True)
    convert(tmp_path / "flat", tmp_path / "out")
    model = NetFoundModel.from_pretrained(tmp_path / "out")
    assert model.config.flat and model.config.mlm_loss_weight == 0
    assert not [n for n, _ in model.named_parameters() if ".flow." in n or ".metadata_" in n]


def test_other_files_are_refused_by_what_they_lack(tmp_path: Path) -> None:
    names = published_names(2) | pretext_names(2)
    for change, text in (
        (lambda n: n.pop("dirPred.bias"), r"Missing: direction_head\.bias"),
        (lambda n: n.update(surprise=(1,)), "Unexpected: surprise"),
        (lambda n: n.pop("base_transformer.embeddings.word_embeddings.weight"), "no base_transformer.embeddings.word"),
        (lambda n: n.update({"base_transformer.encoder.layer.0.burst_encoder.Wqkv.weight": (1,)}), "use_flash_attn"),
    ):
        changed = dict(names)
        change(changed)
        write_published(tmp_path / "wrong", changed)
        with pytest.raises(InvalidCheckpoint, match=text):
            convert(tmp_path / "wrong", tmp_path / "out")
