from __future__ import annotations

import argparse
import os
import re
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.conversion import convert
from domains.speech.tera.modeling import TeraModel
from domains.speech.tera.pretraining import TeraForPreTraining
from domains.speech.tera.processing import TeraProcessor
from domains.speech.tera.weights import our_name
from hub.errors import InvalidCheckpoint

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden" / "tera"

PUBLISHED = (
    (r"^tera\.input\.projection\.", "Transformer.input_representations.spec_transform."),
    (r"^tera\.input\.norm\.", "Transformer.input_representations.LayerNorm."),
    (r"^tera\.hidden_norms\.", "Transformer.encoder.LayerNorm."),
    (r"^tera\.layers\.", "Transformer.encoder.layer."),
    (r"\.attention\.(query|key|value)\.", r".attention.self.\1."),
    (r"\.attention\.output\.", ".attention.output.dense."),
    (r"\.attention_norm\.", ".attention.output.LayerNorm."),
    (r"\.expand\.", ".intermediate.dense."),
    (r"\.contract\.", ".output.dense."),
    (r"\.output_norm\.", ".output.LayerNorm."),
    (r"^head\.norm\.", "SpecHead.LayerNorm."),
    (r"^head\.", "SpecHead."),
)
MEL = {
    "target_level": -25,
    "win_ms": 25,
    "hop_ms": 10,
    "n_freq": 201,
    "n_mels": 80,
    "n_mfcc": 13,
    "input": {"feat_type": "mel", "channel": 0, "log": True, "delta": 0, "cmvn": True},
}
KALDI = {
    "kaldi": {
        "feat_type": "fbank",
        "fbank": {"num_mel_bins": 80, "frame_length": 25.0, "frame_shift": 10.0, "use_log_fbank": True},
    },
    "delta": {"order": 2, "win_length": 5},
    "cmvn": {"use_cmvn": True},
}
TASK = {
    "mask_proportion": 0.15,
    "mask_consecutive_min": 7,
    "mask_consecutive_max": 7,
    "mask_allow_overlap": True,
    "mask_bucket_ratio": 1.5,
    "mask_frequency": 0.2,
    "noise_proportion": 0.0,
}


def transformer_settings(config: TeraConfig) -> dict[str, Any]:
    return {
        "input_dim": -1,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.3,
        "attention_probs_dropout_prob": 0.3,
        "initializer_range": 0.02,
        "layer_norm_eps": "1e-12",
        "share_layer": config.share_layer,
        "pre_layer_norm": config.pre_layer_norm,
    }


def published_weights(model: TeraForPreTraining) -> dict[str, OrderedDict[str, torch.Tensor]]:
    parts: dict[str, OrderedDict[str, torch.Tensor]] = {"Transformer": OrderedDict(), "SpecHead": OrderedDict()}
    for ours, tensor in model.state_dict().items():
        name = ours
        for pattern, published in PUBLISHED:
            name = re.sub(pattern, published, name)
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor.clone()
    return parts


@pytest.fixture
def script_classes(monkeypatch):
    """The two classes of the training script that a published file names."""
    module = types.ModuleType("optimizers")
    schedule = type("WarmupLinearSchedule", (), {"__module__": "optimizers"})
    module.WarmupLinearSchedule = schedule
    monkeypatch.setitem(sys.modules, "optimizers", module)
    instance = schedule()
    instance.warmup, instance.t_total = 0.07, 1_000
    return argparse.Namespace(name="run", seed=1337), instance


def container(generation: str, model: TeraForPreTraining, audio: dict | None, script_classes) -> dict[str, Any]:
    arguments, schedule = script_classes
    weights = published_weights(model)
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"schedule": schedule}]}
    sizes = transformer_settings(model.config)
    if generation == "A":
        settings = {"transformer": {**sizes, **TASK, "max_input_length": 0}}
        if audio is not None:
            settings["online"] = audio
        return {
            **weights,
            "Settings": {"Config": settings, "Paras": arguments},
            "Global_step": 500,
            "Optimizer": optimizer,
        }
    upstream = {"transformer": sizes, "task": {**TASK, "loss": "L1", "sequence_length": 1_500}}
    if audio is not None:
        upstream["audio"] = audio
    common = {**weights, "Args": arguments, "Step": 500, "Optimizer": optimizer}
    if generation == "B":
        return {**common, "Config": upstream, "Runner": {"total_steps": 1_000}}
    return {**common, "Upstream_Config": upstream, "Config": {"runner": {"total_steps": 1_000}}}


@pytest.mark.parametrize("generation", ["A", "B", "C"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_every_generation_and_both_file_formats(generation, legacy, pretext, voices, script_classes, tmp_path):
    file = tmp_path / "states-500.ckpt"
    torch.save(container(generation, pretext, MEL, script_classes), file, _use_new_zipfile_serialization=not legacy)
    facts = convert(file, tmp_path / "out")
    assert facts["container"].startswith(generation)
    assert facts["training_steps"] == 500
    assert facts["parameters"] == pretext.num_parameters()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    model, processor = TeraModel.from_pretrained(tmp_path / "out"), TeraProcessor.from_pretrained(tmp_path / "out")
    assert processor.to_dict() == TeraProcessor().to_dict()
    assert model.config.hidden_dropout_prob == 0.3
    assert model.config.noise_proportion == 0.0
    assert model.config.sequence_length == (0 if generation == "A" else 1_500)
    batch = processor(voices, sampling_rate=16_000)
    with torch.no_grad():
        expected = pretext.tera(**batch, output_hidden_states=True).hidden_states
        found = AutoModel.from_pretrained(tmp_path / "out")(**batch, output_hidden_states=True).hidden_states
        head = TeraForPreTraining.from_pretrained(tmp_path / "out").head
        assert torch.equal(head(expected[-1]), pretext.head(expected[-1]))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_kaldi_front_end(script_classes, shaken, voices, tmp_path, config):
    model = TeraForPreTraining(TeraConfig(**{**config.to_dict(), "input_dim": 240, "output_dim": 240})).eval()
    shaken(model)
    torch.save(container("C", model, KALDI, script_classes), tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "out")
    processor = TeraProcessor.from_pretrained(tmp_path / "out")
    assert processor.to_dict() == TeraProcessor(front_end="kaldi").to_dict()
    batch = processor(voices[0], sampling_rate=16_000)
    with torch.no_grad():
        expected = model.tera(**batch).last_hidden_state
        assert torch.equal(TeraModel.from_pretrained(tmp_path / "out")(**batch).last_hidden_state, expected)


@pytest.mark.parametrize("share_layer", [False, True])
def test_tied_layers_and_second_names(share_layer, script_classes, shaken, config, tmp_path):
    """Published files repeat a shared layer, and with pre_layer_norm save some weights under two names."""
    options = {"share_layer": share_layer, "pre_layer_norm": True}
    model = TeraForPreTraining(TeraConfig(**{**config.to_dict(), **options})).eval()
    shaken(model)
    content = container("C", model, MEL, script_classes)
    weights = content["Transformer"]
    if share_layer:
        for name in [n for n in weights if n.startswith("encoder.layer.0.")]:
            weights[name.replace("layer.0.", "layer.1.", 1)] = weights[name]
    for depth in range(2):
        for kind in ("weight", "bias"):
            stem = f"encoder.layer.{depth}"
            weights[f"{stem}.attention.LayerNorm.{kind}"] = weights[f"{stem}.attention.output.LayerNorm.{kind}"]
            weights[f"{stem}.LayerNorm.{kind}"] = weights[f"{stem}.output.LayerNorm.{kind}"]
    torch.save(content, tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "out")
    x = torch.randn(1, 20, 80)
    with torch.no_grad():
        expected = model.tera(x).last_hidden_state
        assert torch.equal(TeraModel.from_pretrained(tmp_path / "out")(x).last_hidden_state, expected)


def test_old_names_of_normalisation_weights():
    assert our_name("SpecHead.LayerNorm.gamma") == "head.norm.weight"
    stem = "Transformer.encoder.layer.7.output.LayerNorm"
    assert our_name(f"{stem}.beta") == "tera.layers.7.output_norm.bias"


def test_frequency_in_columns_becomes_a_share(pretext, script_classes, tmp_path):
    content = container("A", pretext, MEL, script_classes)
    content["Settings"]["Config"]["transformer"]["mask_frequency"] = 8
    torch.save(content, tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "out")
    share = TeraConfig.from_pretrained(tmp_path / "out").mask_frequency
    assert int(80 * share) == 8


def test_features_computed_beforehand_leave_no_processor(pretext, script_classes, tmp_path):
    torch.save(container("A", pretext, None, script_classes), tmp_path / "a.ckpt")
    facts = convert(tmp_path / "a.ckpt", tmp_path / "out")
    assert "computed beforehand" in facts["note"]
    assert not (tmp_path / "out" / "preprocessor_config.json").exists()
    convert(tmp_path / "a.ckpt", tmp_path / "given", front_end="mel")
    assert TeraProcessor.from_pretrained(tmp_path / "given").front_end == "mel"
    with pytest.raises(InvalidCheckpoint, match=r"80 features a frame.*240"):
        convert(tmp_path / "a.ckpt", tmp_path / "wrong", front_end="kaldi")


def test_a_file_without_configuration_needs_the_heads(pretext, tmp_path):
    torch.save(published_weights(pretext), tmp_path / "a.ckpt")
    with pytest.raises(InvalidCheckpoint, match="pass heads="):
        convert(tmp_path / "a.ckpt", tmp_path / "out")
    facts = convert(tmp_path / "a.ckpt", tmp_path / "out", heads=4, front_end="mel")
    assert facts["container"] == "without configuration"
    x = torch.randn(1, 20, 80)
    with torch.no_grad():
        expected = pretext.tera(x).last_hidden_state
        assert torch.equal(TeraModel.from_pretrained(tmp_path / "out")(x).last_hidden_state, expected)
    with pytest.raises(InvalidCheckpoint, match="num_attention_heads=5"):
        convert(tmp_path / "a.ckpt", tmp_path / "other", heads=5)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_that_wants_something_run_is_refused_by_name(legacy, pretext, script_classes, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    content = {**container("C", pretext, MEL, script_classes), "Args": Bomb()}
    torch.save(content, tmp_path / "bomb.ckpt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InvalidCheckpoint, match=r"bomb\.ckpt.*(posix|nt|os)\.system") as caught:
        convert(tmp_path / "bomb.ckpt", tmp_path / "out")
    assert caught.value.code == "unsafe_checkpoint"
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "out").exists()


def test_an_allowed_class_cannot_be_used_to_smuggle_state(pretext, script_classes, tmp_path):
    arguments, schedule = script_classes
    schedule.__dict__["__class__"] = "anything"
    arguments.__setstate__ = "anything"
    torch.save(container("B", pretext, MEL, script_classes), tmp_path / "a.ckpt")
    assert convert(tmp_path / "a.ckpt", tmp_path / "out")["container"].startswith("B")


def test_wrong_files_are_refused_by_their_keys(pretext, script_classes, tmp_path):
    file = tmp_path / "wrong.ckpt"

    def refused(content: Any, text: str) -> None:
        torch.save(content, file)
        with pytest.raises(InvalidCheckpoint, match=text):
            convert(file, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused({"model": {"conv.weight": torch.zeros(2)}, "epoch": 3}, "'Transformer'.*it has epoch, model")
    refused([1, 2], "list")
    refused({"Transformer": {"a": 1}, "SpecHead": {}}, "lacks the weights")
    refused({"Transformer": OrderedDict(a=torch.zeros(1)), "SpecHead": {}}, "heads=")
    content = container("C", pretext, MEL, script_classes)
    del content["Transformer"]["encoder.layer.1.intermediate.dense.bias"]
    content["Transformer"]["encoder.layer.1.extra.weight"] = torch.zeros(3)
    refused(
        content,
        r"Missing: tera\.layers\.1\.expand\.bias\. Unexpected: Transformer\.encoder\.layer\.1\.extra\.weight\.",
    )
    content = container("C", pretext, MEL, script_classes)
    content["Transformer"]["encoder.layer.1.output.dense.bias"] = torch.zeros(3)
    refused(content, r"another shape: tera\.layers\.1\.contract\.bias")
    content = container("C", pretext, MEL, script_classes)
    del content["SpecHead"]["output.weight"]
    refused(content, r"Missing: SpecHead\.output\.weight")
    refused(container("C", pretext, KALDI, script_classes), "80 features a frame.*240")
    mfcc = {**MEL, "input": {**MEL["input"], "feat_type": "mfcc"}}
    refused(container("C", pretext, mfcc, script_classes), "'mfcc'")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100), bytes(64)])
def test_other_files_are_no_checkpoints(content, tmp_path):
    file = tmp_path / "a.ckpt"
    file.write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match=r"a\.ckpt"):
        convert(file, tmp_path / "out")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="no golden cases beside this checkout")
def test_the_official_container_converts(tmp_path):
    facts = convert(GOLDEN / "states-3.ckpt", tmp_path / "out")
    assert facts["container"].startswith("C")
    assert facts["parameters"] == 67_232
