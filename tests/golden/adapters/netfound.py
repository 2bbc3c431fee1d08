"""Golden cases of netFound, both generations: every recorded tensor against ours; see `check`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.network.flow import Flow
from domains.network.netfound.configuration import NetFoundConfig
from domains.network.netfound.conversion import config_from_weights, fill
from domains.network.netfound.processing import NetFoundProcessor
from domains.network.netfound.weights import our_name
from hub.reading import Sample

Compare = Callable[..., None]
STATES = {"atol": 5e-5}
LOSS = {"atol": 1e-5}
GRADIENT = {"atol": 1e-5, "rtol": 1e-4}
EXACT = {"atol": 0.0}


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Compare every tensor of one folder with ours.

    Args:
        folder: Holds ``config.json``, ``weights.safetensors`` and ``io.safetensors``; the second generation's also the
            heads of a fine-tuned model and what the published tokenizer makes of stored flows.
        compare: ``compare(name, actual, expected, *, atol, rtol=0.0)``; records and fails.
    """
    settings = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    recorded = load_file(folder / "io.safetensors")
    config = config_from_weights(weights, settings, "golden")
    config.reference_padding = True
    seen = _encoder(config, weights, recorded, compare)
    seen |= _pretext(config, weights, recorded, folder, compare)
    if (folder / "finetune_heads.safetensors").exists():
        tuned = {**{k: v for k, v in weights.items() if k.startswith("base_transformer.")}}
        tuned |= load_file(folder / "finetune_heads.safetensors")
        seen |= _head(settings, tuned, recorded, compare)
        _alone(config, weights, recorded, compare)
        _tokens(folder / "preprocess", compare)
        seen |= {k for k in recorded if k.startswith("alone.")}
    left = sorted(k for k in recorded.keys() - seen if not k.startswith("in.") and not k.endswith("full_vocab"))
    assert not left, f"recorded, but not compared: {left}"


def _batch(recorded: dict[str, Tensor], prefix: str = "in.", ids: str = "") -> dict[str, Tensor]:
    """The recorded batch, whose bursts lie end to end and repeat their metadata for each token, in our shape."""
    tokens = recorded[ids or f"{prefix}input_ids"]
    sizes = recorded.get(f"{prefix}dataset_burst_sizes")
    longest = 109 if sizes is None else int(sizes.max()) + 1
    folded = {k: recorded[prefix + k].unflatten(1, (-1, longest)) for k in ("direction", "bytes", "pkt_count", "iats")}
    return {
        "input_ids": tokens.unflatten(1, (-1, longest)),
        "attention_mask": recorded[f"{prefix}attention_mask"].bool().unflatten(1, (-1, longest)),
        "metadata": torch.stack([folded[k][..., 0] for k in ("direction", "bytes", "pkt_count", "iats")], dim=-1),
        "protocol": recorded[f"{prefix}protocol"],
    }


def _encoder(config: NetFoundConfig, weights: dict[str, Tensor], recorded: dict[str, Tensor], compare: Compare) -> set:
    model = fill(config, weights, "golden").netfound
    batch = _batch(recorded)
    found: dict[str, Tensor] = {}
    for number, layer in enumerate(model.layers):
        for kind, block in (("burst", layer.burst), ("flow", layer.flow)):
            name = f"infer.layer{number}.{kind}_encoder"
            block.register_forward_hook(lambda _, __, out, n=name: found.__setitem__(n, out))
            block.attention.register_forward_hook(lambda _, __, out, n=name: found.__setitem__(f"{n}.attention", out))
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
    found["infer.embeddings"], found["infer.last_hidden_state"] = output.hidden_states[0], output.last_hidden_state
    for number, states in enumerate(output.hidden_states[1:]):
        found[f"infer.layer{number}.out"] = states
    found["infer.embedding_mean_official"] = model.pool(output.last_hidden_state, output.mask, "mean", batch)
    masked = model.pool(output.last_hidden_state, batch["attention_mask"].flatten(1), "mean", batch)
    found["infer.embedding_mean_masked"] = masked
    names = {k for k in recorded if k.startswith("infer.")}
    for name in sorted(names):
        # What blocks return lies token after token. Where theirs was recorded, CLS states had been overwritten.
        kept = slice(1 if name.endswith("burst_encoder") else 0, None)
        ours = found[name].reshape(recorded[name].shape)
        compare(name, ours[:, kept], recorded[name][:, kept], **STATES)
    return names


def _pretext(
    config: NetFoundConfig,
    weights: dict[str, Tensor],
    recorded: dict[str, Tensor],
    folder: pathlib.Path,
    compare: Compare,
) -> set:
    config.reference_padding = True
    task = fill(config, weights, "golden")
    batch = _batch(recorded, ids="pretrain.input_ids")
    hidden = recorded["pretrain.burstMetasToBeMasked"]
    targets = batch["metadata"]
    batch["metadata"] = targets.masked_fill(hidden.unsqueeze(-1), 0)
    labels = recorded["pretrain.labels"].view_as(batch["input_ids"])
    asked = {"labels": labels, "targets": targets, "hidden": hidden, "swapped": recorded["pretrain.swappedLabels"]}
    output = task(**batch, **asked)
    states = task.netfound(**batch).last_hidden_state
    said = task.predict(states, batch["attention_mask"], labels)
    compare(
        "pretrain.mask_positions", (labels.flatten(1) != -100).nonzero(), recorded["pretrain.mask_positions"], **EXACT
    )
    raw = "pretrain.direction_logits" + ("_raw" if config.generation == 1 else "")
    for name, value in {
        "pretrain.lm_logits_at_masks": said.tokens,
        "pretrain.swapped_logits": said.swapped,
        "pretrain.meta_pred_raw": said.metadata,
        raw: said.direction,
    }.items():
        compare(name, value, recorded[name], **STATES)
    if "pretrain.attentive_pool" in recorded:
        cls = states.unflatten(1, (*hidden.shape[1:], -1))[:, :, 0]
        pooled = task.pooling_head(cls, torch.ones_like(hidden))
        compare("pretrain.attentive_pool", pooled, recorded["pretrain.attentive_pool"], **STATES)
    terms = {"mlm": "mlm", "swap": "swap_bursts", "metadata": "metadata", "direction": "direction"}
    for ours, theirs in terms.items():
        name = f"pretrain.loss.{theirs}_loss"
        compare(name, output.metrics[f"{ours}_loss"], recorded[name], **LOSS)
    compare("pretrain.loss.total", output.loss, recorded["pretrain.loss.total"], **LOSS)
    if "pretrain.grad_norms" in recorded:
        output.loss.backward()
        gradients = {n: p.grad.norm() for n, p in task.named_parameters()}
        names = json.loads((folder / "meta.json").read_text())["grad_norm_names"]
        for name, norm in zip(names, recorded["pretrain.grad_norms"], strict=True):
            # Positions that a layer adds to states it overwrites are not ours.
            if not name.endswith(".position_embeddings.weight"):
                compare(f"gradient of {our_name(name)}", gradients[our_name(name)], norm, **GRADIENT)
    return {k for k in recorded if k.startswith("pretrain.")}


def _head(settings: dict[str, Any], weights: dict[str, Tensor], recorded: dict[str, Tensor], compare: Compare) -> set:
    """The published fine-tuning head, read by the converter."""
    config = config_from_weights(weights, settings, "golden")
    config.reference_padding = True
    model = fill(config, weights, "golden")
    with torch.no_grad():
        logits = model.logits(_batch(recorded))
        alone = model.logits(_batch(recorded, "alone."))
    compare("finetune.logits", logits, recorded["finetune.logits"], **STATES)
    loss = torch.nn.functional.cross_entropy(logits, recorded["finetune.labels"])
    compare("finetune.loss", loss, recorded["finetune.loss"], **LOSS)
    compare("alone.finetune_logits", alone, recorded["alone.finetune_logits"], **STATES)
    return {k for k in recorded if k.startswith("finetune.")}


def _alone(config: NetFoundConfig, weights: dict[str, Tensor], recorded: dict[str, Tensor], compare: Compare) -> None:
    """One flow without company, in the published way and in ours; ours must be the same among others."""
    batch = _batch(recorded, "alone.")
    for ours in (False, True):
        config.reference_padding = not ours
        model = fill(config, weights, "golden").netfound
        with torch.no_grad():
            output = model(**batch)
        pooled = model.pool(output.last_hidden_state, output.mask, "mean", batch)
        name = f"alone.embedding_mean_{'masked' if ours else 'official'}"
        compare(name, pooled, recorded[name], **STATES)
        if not ours:
            compare("alone.last_hidden_state", output.last_hidden_state, recorded["alone.last_hidden_state"], **STATES)


def _tokens(folder: pathlib.Path, compare: Compare) -> None:
    """The published tokenizer and collator on stored flows."""
    recorded = load_file(folder / "tokenizer.safetensors")
    rows = [json.loads(line) for line in (folder / "flows.jsonl").read_text().splitlines()]
    samples = [Sample(_flow(rows[index])) for index in recorded["flow_index"].tolist()]
    for name, processor in {
        "nopayload": NetFoundProcessor(),
        "payload": NetFoundProcessor(strip_payload=False, max_burst_length=109),
    }.items():
        batch = processor(samples)
        mask, longest = batch["attention_mask"], batch["input_ids"].shape[2]
        compare(f"{name}.input_ids", batch["input_ids"].flatten(1), recorded[f"{name}.input_ids"], **EXACT)
        compare(f"{name}.attention_mask", mask.flatten(1), recorded[f"{name}.attention_mask"], **EXACT)
        compare(f"{name}.protocol", batch["protocol"], recorded[f"{name}.protocol"], **EXACT)
        sizes = (mask.sum(-1) - 1).clamp(min=0)
        compare(f"{name}.dataset_burst_sizes", sizes, recorded[f"{name}.dataset_burst_sizes"], **EXACT)
        for number, column in enumerate(("direction", "bytes", "pkt_count", "iats")):
            ours = (batch["metadata"][..., number, None] * mask).flatten(1)
            compare(f"{name}.{column}", ours, recorded[f"{name}.{column}"], **EXACT)
        assert longest == processor.max_burst_length


def _flow(row: dict[str, Any]) -> Flow:
    return Flow(
        [np.array(tokens, np.uint16) for tokens in row["burst_tokens"]],
        np.array(row["directions"]),
        np.array(row["bytes"], np.uint32),
        np.array(row["iats"], np.uint64),
        np.array(row["counts"], np.uint32),
        row["protocol"],
        row["flow_duration"],
    )
