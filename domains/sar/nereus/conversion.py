"""Published Nereus-SAR-1 (OceanSAR-1) files to checkpoints.

The published files are transformers' ``model.safetensors``: a backbone (ResNet-50, or a ViT on demand), or a ResNet-50
with a linear head for wave height or wind speed. No normalisation is published with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.modeling import NereusModel
from domains.sar.nereus.processing import NereusProcessor
from domains.sar.nereus.weights import HEAD, from_published
from hub.errors import InvalidCheckpoint
from hub.finetuning.model import task_model_class
from hub.finetuning.task import SECTION, HeadSpec
from hub.official_files import load_exactly, read_state_dict, some_names

_WIDTH_OF_A_HEAD = 64
_STAGE = re.compile(r"^resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.weight$")


def convert(
    path: Path,
    output: Path,
    *,
    size: int = 256,
    mean: float | str | None = None,
    std: float | str | None = None,
    low: float | str | None = None,
    high: float | str | None = None,
    reference: str = "absolute",
    label: str = "",
) -> dict[str, Any]:
    """Write a checkpoint (configuration, weights, processor) from a published file.

    Sizes are read from the weights, and what these do not tell (a ViT's heads, where a ResNet strides) from the
    ``config.json`` beside the file, if it is there.

    Args:
        path: ``model.safetensors``.
        output: Folder to write to.
        size: Side of the input, pixels.
        mean: Normalisation, see `NereusProcessor`. No processor is written without all four.
        std: See there.
        low: Lower end of its ``clip``.
        high: Upper end.
        reference: See there.
        label: Name of what a head predicts, for example ``wave_height_m``.

    Returns:
        Facts for the model card, by name.

    Raises:
        InvalidCheckpoint: The file is damaged or not of this layout; the text names missing and unexpected keys.
    """
    published = read_state_dict(path)
    weights = from_published(published)
    config = config_from_weights(weights, _settings_beside(path), path.name)
    head = {name.removeprefix(HEAD): published[name] for name in published if name.startswith(HEAD)}
    facts: dict[str, Any] = {"backbone": config.backbone}
    if head:
        outputs = len(head.get("bias", ()))
        labels = (label,) if label and outputs == 1 else tuple(f"value_{number}" for number in range(outputs))
        setattr(config, SECTION, HeadSpec("regression", labels, "mean").to_dict())
        facts["head"] = f"regression of {', '.join(labels)}"
    model = fill(config, weights, head, path.name)
    processor = None
    if mean is not None and std is not None and low is not None and high is not None:
        try:
            processor = NereusProcessor(size, float(mean), float(std), (float(low), float(high)), reference)
        except ValueError as error:
            raise InvalidCheckpoint(f"{path.name}: {error}") from None
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    if processor is not None:
        processor.save_pretrained(output)
    else:
        facts["note"] = (
            "No normalisation is published, so there is no processor, and files cannot be embedded; convert again with "
            "the options mean, std, low and high (dB), once they are known."
        )
    return {**facts, "parameters": model.num_parameters(), "bytes_of_the_official_file": path.stat().st_size}


def config_from_weights(weights: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> NereusConfig:
    """Return the configuration that published weights fit.

    Args:
        weights: Under our names.
        settings: The published ``config.json``, or nothing.
        source: What messages call the file.

    Raises:
        InvalidCheckpoint: They lack what sizes are read from, or are of no such backbone.
    """
    try:
        if "vit.embeddings.patch_embeddings.projection.weight" in weights:
            return NereusConfig(**_vit_sizes(weights, settings))
        return NereusConfig(**_resnet_sizes(weights, settings))
    except (KeyError, ValueError, StrictDataclassError) as error:
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise InvalidCheckpoint(
            f"{source} does not hold Nereus's weights ({reason}); it has {some_names(weights)}"
        ) from None


def fill(config: NereusConfig, weights: Mapping[str, Tensor], head: Mapping[str, Tensor], source: str) -> NereusModel:
    """Return the encoder, with its head if there is one, with these weights, which must be exactly its own.

    Args:
        config: With a ``finetuned`` section where there is a head.
        weights: Of the backbone, under our names.
        head: ``weight`` and ``bias`` of the linear head, or empty.
        source: What messages call the file.

    Raises:
        InvalidCheckpoint: Keys are missing, unexpected, or of another shape; the text names them.
    """
    model: Any = (task_model_class(NereusModel) if head else NereusModel)(config)
    found = {**weights, **{f"task_head.output.{name}": tensor for name, tensor in head.items()}}
    if head:
        # A published head reads the pooled features as they are: statistics of our heads that change nothing.
        own = model.task_head.state_dict()
        found |= {f"task_head.{name}": tensor for name, tensor in own.items() if not name.startswith("output.")}
    load_exactly(model, found, source, "Nereus's weights")
    return model.eval()


def _resnet_sizes(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    stem = weights["resnet.embedder.embedder.convolution.weight"]
    depths: dict[int, int] = {}
    last = 0
    for name in weights:
        if match := _STAGE.match(name):
            stage, layer, convolution = map(int, match.groups())
            depths[stage] = max(depths.get(stage, 0), layer + 1)
            last = max(last, convolution)
    if not depths:
        raise KeyError("resnet.encoder.stages.0")
    widths = {
        stage: weights[f"resnet.encoder.stages.{stage}.layers.0.layer.{last}.convolution.weight"].shape[0]
        for stage in depths
    }
    told = ("downsample_in_first_stage", "downsample_in_bottleneck")
    return {
        "backbone": "resnet",
        "num_channels": stem.shape[1],
        "embedding_size": stem.shape[0],
        "hidden_sizes": [widths[stage] for stage in sorted(widths)],
        "depths": [depths[stage] for stage in sorted(depths)],
        "layer_type": "bottleneck" if last == 2 else "basic",
        **{name: settings[name] for name in told if name in settings},
    }


def _vit_sizes(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    projection = weights["vit.embeddings.patch_embeddings.projection.weight"]
    places = weights["vit.embeddings.position_embeddings"].shape[1] - 1
    side = round(places**0.5)
    if side * side != places:
        raise ValueError(f"{places} positions are no square grid")
    width, channels, patch = projection.shape[:3]
    layers = {match[1] for match in (re.match(r"vit\.layers\.(\d+)\.", name) for name in weights) if match}
    return {
        "backbone": "vit",
        "num_channels": channels,
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        # Shapes do not tell the heads; every published size has heads of this width.
        "num_attention_heads": settings.get("num_attention_heads", max(1, width // _WIDTH_OF_A_HEAD)),
        "intermediate_size": weights["vit.layers.0.mlp.fc1.weight"].shape[0],
        "layer_norm_eps": float(settings.get("layer_norm_eps", 1e-6)),
    }


def _settings_beside(path: Path) -> Mapping[str, Any]:
    beside = path.parent / "config.json"
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise InvalidCheckpoint(f"{beside} is not a configuration; remove it, or give the published one") from None
    return found if isinstance(found, Mapping) else {}
