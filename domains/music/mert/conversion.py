"""Published MERT checkpoints (``m-a-p/MERT-v0``, ``-v0-public``, ``-v1-95M``, ``-v1-330M``), and fairseq's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from domains.music.mert.configuration import MertConfig
from domains.music.mert.fairseq import STAND_INS, option
from domains.music.mert.modeling import MertModel
from domains.music.mert.pretraining import MertForPreTraining
from domains.music.mert.processing import MertProcessor
from domains.music.mert.weights import from_published, from_training
from hub.errors import InvalidCheckpoint
from hub.official_files import load_exactly, read_official, read_state_dict, some_names

OURS = MertConfig()
_SECOND = ("mert2", "mert_v2", "mertv2", "conformer")
"""What a configuration of MERT-v2 says of itself."""
_NEEDED = ("sample_rate", "hidden_size", "num_hidden_layers", "num_attention_heads", "do_stable_layer_norm")
"""What weights do not tell, or not reliably: without one of these, nothing is guessed."""
_COPIED = (
    *_NEEDED,
    "intermediate_size",
    "hidden_act",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "conv_bias",
    "feat_extract_norm",
    "feat_extract_activation",
    "feat_proj_layer_norm",
    "feature_extractor_cqt",
    "feature_extractor_cqt_bins",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "deepnorm",
    "layer_norm_eps",
    "initializer_range",
    "feat_proj_dropout",
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "layerdrop",
)
"""Keys that mean the same here. ``attention_relax`` is left: it is exact arithmetic's identity, and never ran."""
_LICENCE = "CC BY-NC 4.0 (non-commercial), as its authors publish it; early revisions of v0 said MIT"


def convert(path: Path, output: Path, *, layer_norm_first: int = -1, sample_rate: int = 0) -> dict[str, Any]:
    """Write a checkpoint (configuration, weights, processor) from a published one or one of the training code.

    Args:
        path: ``model.safetensors`` or ``pytorch_model.bin`` with ``config.json`` beside it, or fairseq's ``.pt``.
        output: Folder to write to.
        layer_norm_first: For a ``.pt`` that does not say it: 1 for 330M, 0 for 95M.
        sample_rate: For a ``.pt`` that does not say it: Hz.

    Returns:
        Facts for the model card, by name.

    Raises:
        InvalidCheckpoint: The file is damaged, of MERT-v2, or not MERT's; the text says which.
    """
    if path.suffix == ".pt":
        model: MertModel | MertForPreTraining = _from_training(path, layer_norm_first, sample_rate)
    else:
        weights = read_state_dict(path)
        config = config_from_published(_json_beside(path, "config.json"), path.name)
        model = MertModel(config)
        load_exactly(model, from_published(weights), path.name, "the weights of a MERT of this config.json")
    config = model.config
    processor = _processor(path, config)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return {
        "parameters": model.num_parameters(),
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "sampling rate": f"{config.sample_rate} Hz",
        "frames a second": config.sample_rate / config.hop,
        "pretraining heads": "kept" if isinstance(model, MertForPreTraining) else "not in the file",
        "licence of the weights": _LICENCE,
    }


def config_from_published(settings: Mapping[str, Any], source: str) -> MertConfig:
    """Return our configuration of a published ``config.json``.

    Raises:
        InvalidCheckpoint: It is of MERT-v2 or another model, or does not say what it must.
    """
    said = f"{settings.get('model_type')} {settings.get('architectures')}".lower()
    if any(word in said for word in _SECOND):
        raise InvalidCheckpoint(
            f"{source} is MERT-v2, another architecture (Conformer on mel spectra at 25 Hz) under the same name; "
            "offered are MERT-v0, MERT-v0-public, MERT-v1-95M and MERT-v1-330M"
        )
    if missing := [name for name in _NEEDED if name not in settings]:
        raise InvalidCheckpoint(f"the config.json of {source} does not say {', '.join(missing)}: it is not MERT's")
    if settings.get("conv_pos_batch_norm"):
        raise InvalidCheckpoint(f"{source} has conv_pos_batch_norm, which no MERT has")
    try:
        return MertConfig(**{name: settings[name] for name in _COPIED if name in settings})
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise InvalidCheckpoint(f"the config.json of {source} describes no MERT: {error}") from None


def _from_training(path: Path, layer_norm_first: int, sample_rate: int) -> MertForPreTraining:
    content = read_official(path, STAND_INS)
    weights = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or "mask_emb" not in weights or "label_embs_concat" not in weights:
        raise InvalidCheckpoint(
            f"{path.name} holds {some_names(content) if isinstance(content, Mapping) else type(content).__name__}; a "
            "training checkpoint of MERT holds 'model' with mask_emb and label_embs_concat"
        )
    first = option(content, "model", "layer_norm_first") if layer_norm_first < 0 else bool(layer_norm_first)
    rate = sample_rate or option(content, "task", "sample_rate")
    if first is None or not rate:
        raise InvalidCheckpoint(
            f"{path.name} does not say where its layers normalise or at what rate, and the weights look alike: give "
            "layer_norm_first=0 (95M) or 1 (330M), and sample_rate=16000 (v0) or 24000 (v1)"
        )
    try:
        config = _config_from_training(weights, content, bool(first), int(rate))
    except (KeyError, ValueError, TypeError, StrictDataclassError) as error:
        raise InvalidCheckpoint(f"{path.name} does not hold MERT's training weights ({error})") from None
    task = MertForPreTraining(config)
    load_exactly(task, from_training(weights, config.codebooks), path.name, "MERT's training weights")
    return task


def _config_from_training(
    weights: Mapping[str, Tensor], content: Mapping[str, Any], first: bool, rate: int
) -> MertConfig:
    layers = len([name for name in weights if name.endswith(".fc1.bias")])
    stack = len([n for n in weights if n.startswith("feature_extractor.conv_layers.") and n.endswith(".0.weight")])
    hidden = len(weights["mask_emb"])
    embeddings = weights["label_embs_concat"]
    codebooks = len(weights["final_proj.weight"]) // embeddings.shape[1]
    position = weights["encoder.pos_conv.0.weight_v"]
    every = "feature_extractor.conv_layers.1.2.1.weight" in weights
    heads = option(content, "model", "encoder_attention_heads") or hidden // 64
    specials = OURS.special_codes
    # Switched off where layers normalise first, in the 330M.
    names = ("feat_proj_dropout", "hidden_dropout", "attention_dropout", "layerdrop") if first else ()
    dropouts: dict[str, Any] = dict.fromkeys(names, 0.0)
    return MertConfig(
        sample_rate=rate,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=int(heads),
        intermediate_size=len(weights["encoder.layers.0.fc1.bias"]),
        conv_dim=[len(weights[f"feature_extractor.conv_layers.{i}.0.weight"]) for i in range(stack)],
        conv_kernel=[weights[f"feature_extractor.conv_layers.{i}.0.weight"].shape[2] for i in range(stack)],
        conv_stride=list(OURS.conv_stride),
        feat_extract_norm="layer" if every else "group",
        num_conv_pos_embeddings=position.shape[2],
        num_conv_pos_embedding_groups=hidden // position.shape[1],
        do_stable_layer_norm=first,
        deepnorm=bool(option(content, "model", "deepnorm")),
        **dropouts,
        feature_grad_mult=1.0 if first else 0.1,
        codebooks=codebooks,
        codebook_size=len(embeddings) // codebooks - specials,
        code_dim=embeddings.shape[1],
        cqt_bins=len(weights["encoder_cqt_model.fc.bias"]),
    )


def _processor(path: Path, config: MertConfig) -> MertProcessor:
    beside = path.parent / "preprocessor_config.json"
    settings = _json_beside(path, beside.name) if beside.exists() else {}
    rate = settings.get("sampling_rate", config.sample_rate)
    if rate != config.sample_rate:
        raise InvalidCheckpoint(
            f"{path.name}: preprocessor_config.json says {rate} Hz, config.json {config.sample_rate} Hz; they "
            "must agree"
        )
    return MertProcessor(
        sampling_rate=config.sample_rate,
        do_normalize=bool(settings.get("do_normalize", True)),
        hop=config.hop,
        receptive_field=config.receptive_field,
    )


def _json_beside(file: Path, name: str) -> dict[str, Any]:
    path = file.parent / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidCheckpoint(
            f"{file.name} needs {name} beside it: weights do not tell 95M's layers from 330M's"
        ) from None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InvalidCheckpoint(f"{name} beside {file.name} is no JSON object")
    return found
