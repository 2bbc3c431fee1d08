"""Published netFound checkpoints (``snlucsb/netFound-*``, both generations) and those fine-tuned with its code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from domains.network.netfound.configuration import NetFoundConfig
from domains.network.netfound.modeling import NetFoundModel
from domains.network.netfound.pretraining import NetFoundForPreTraining
from domains.network.netfound.processing import NetFoundProcessor
from domains.network.netfound.weights import from_published
from hub.errors import InvalidCheckpoint
from hub.official_files import load_exactly, read_state_dict, some_names

_PAYLOAD_LENGTH = 109
"""Tokens of a burst of six TCP packets with payload; 73 without."""
_COPIED = (
    "hidden_dropout_prob",
    "mlp_dropout",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "norm_eps",
    "mlm_probability",
    "swap_rate",
    "max_bursts",
    "no_meta",
    "flat",
)
"""Keys of the published ``config.json`` that mean the same here; dozens of others are arguments of its training."""
_LOSSES = {
    "mlm": "no_mlm",
    "swap": "no_swapped_bursts",
    "metadata": "no_metadata_loss",
    "direction": "no_direction_loss",
}
_HEAD_TASKS = {"multi_label_classification": "multilabel", "regression": "regression"}


def convert(path: Path, output: Path, *, compat: int = 1) -> dict[str, Any]:
    """Write a checkpoint (configuration, weights, processor) from a published one.

    Sizes and generation are read from the weights; what they do not tell from the ``config.json`` beside them, of which
    only keys that are known are looked at.

    Args:
        path: ``model.safetensors``, or the folder that holds it.
        output: Folder to write to.
        compat: 1 to cut captures to flows exactly as the published tools did for the corpus the model was trained on,
            0 to keep what these tools lose.

    Returns:
        Facts for the model card, by name.

    Raises:
        InvalidCheckpoint: The file is damaged or not netFound's; the text names missing and unexpected keys.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    published = read_state_dict(file)
    settings = _settings_beside(file)
    config = config_from_weights(published, settings, file.name)
    model = fill(config, published, file.name)
    payload = config.max_burst_length >= _PAYLOAD_LENGTH
    processor = NetFoundProcessor(
        strip_payload=not payload,
        max_bursts=config.max_bursts,
        max_burst_length=config.max_burst_length,
        compat=bool(compat),
    )
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return {
        "generation": config.generation,
        "parameters": model.num_parameters(),
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "payload": "first 12 bytes of each packet" if payload else "none",
        **({"head": f"{config.head_task} of {len(config.head_labels)} labels"} if config.head_labels else {}),
    }


def config_from_weights(weights: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> NetFoundConfig:
    """Return the configuration that published weights fit.

    Args:
        weights: Under their published names.
        settings: The published ``config.json``, or nothing.
        source: What messages call the file.

    Raises:
        InvalidCheckpoint: They lack what sizes are read from, or are of the model that flash attention gives.
    """
    if any(".Wqkv." in name for name in weights):
        raise InvalidCheckpoint(
            f"{source} was trained with use_flash_attn, which in the published code is another model (no rotary "
            "positions, no normalisation after attention); it is not offered"
        )
    try:
        return NetFoundConfig(**_sizes(weights, settings), **_told(settings), **_head(weights, settings))
    except (KeyError, ValueError, TypeError, StrictDataclassError) as error:
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise InvalidCheckpoint(
            f"{source} does not hold netFound's weights ({reason}); it has {some_names(weights)}"
        ) from None


def fill(config: NetFoundConfig, weights: Mapping[str, Tensor], source: str) -> NetFoundModel | NetFoundForPreTraining:
    """Return the model with published weights, which must be exactly its own: fine-tuned, or with its pretext heads.

    Raises:
        InvalidCheckpoint: Keys are missing, unexpected, or of another shape; the text names them.
    """
    ours = from_published(weights, config)
    if config.head_labels:
        tuned = NetFoundModel(config)
        load_exactly(tuned, {n.removeprefix("netfound."): t for n, t in ours.items()}, source, "netFound's weights")
        return tuned.eval()
    task = NetFoundForPreTraining(config)
    load_exactly(task, ours, source, "netFound's weights")
    return task.eval()


def _sizes(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    embeddings, layer = "base_transformer.embeddings.", "base_transformer.encoder.layer."
    words = weights[f"{embeddings}word_embeddings.weight"]
    generation = 2 if f"{layer}0.burst_encoder.mlp.Wi.weight" in weights else 1
    inner = "mlp.Wo" if generation == 2 else "output.dense"
    learned = f"{embeddings}position_embeddings.weight" in weights
    rotary = weights["base_transformer.encoder.burst_positions.weight"]
    layers = {
        match[1] for match in (re.match(r"base_transformer\.encoder\.layer\.(\d+)\.", n) for n in weights) if match
    }
    return {
        "generation": generation,
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_hidden_layers": len(layers),
        # The rotary table, which also files of models without it hold, is as wide as a head.
        "num_attention_heads": words.shape[1] // rotary.shape[1],
        "intermediate_size": weights[f"{layer}0.burst_encoder.{inner}.weight"].shape[1],
        "max_burst_length": rotary.shape[0],
        "metadata_hidden_size": weights[f"{embeddings}metaEmbeddingLayer1.weight"].shape[0],
        "protocol_size": weights[f"{embeddings}protoEmbedding.weight"].shape[0],
        "positions": "learned" if learned else "rotary",
    }


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: settings[name] for name in _COPIED if name in settings}
    for loss, switch in _LOSSES.items():
        weight = f"{loss}_loss_weight"
        if settings.get(switch):
            told[weight] = 0.0
        elif weight in settings:
            told[weight] = settings[weight]
    return told


def _head(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    if "classifier.weight" not in weights:
        return {}
    outputs = weights["classifier.weight"].shape[0]
    names = settings.get("id2label") or {}
    labels = [str(names.get(str(number), f"LABEL_{number}")) for number in range(outputs)]
    return {"head_labels": labels, "head_task": _HEAD_TASKS.get(settings.get("problem_type", ""), "classification")}


def _settings_beside(file: Path) -> Mapping[str, Any]:
    beside = file.parent / "config.json"
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise InvalidCheckpoint(f"{beside} is not a configuration; remove it, or give the published one") from None
    return found if isinstance(found, Mapping) else {}
