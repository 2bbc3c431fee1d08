"""Published LVM-Med files to checkpoints: ``lvmmed_resnet.torch`` and ``lvmmed_vit.pth``.

Both are plain state dictionaries: the ResNet-50 under torchvision's names, with or without the classifier; the ViT-B
under those of Segment Anything's image encoder, without a table of positions. The authors' classification script puts
``model.`` before the latter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from domains.medical.lvm_med.configuration import RESNETS, LVMMedConfig
from domains.medical.lvm_med.modeling import LVMMedModel
from domains.medical.lvm_med.processing import LVMMedProcessor
from hub.errors import InvalidCheckpoint
from hub.official_files import load_exactly, read_state_dict, some_names

_RENAMED = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"layers.\1.layer_norm\2."),
    (r"^blocks\.", "layers."),
    (r"^neck\.0\.", "neck.conv1."),
    (r"^neck\.1\.", "neck.layer_norm1."),
    (r"^neck\.2\.", "neck.conv2."),
    (r"^neck\.3\.", "neck.layer_norm2."),
)
_STRANGERS = (
    (r"^(module\.)?(backbone\.)?model_down\.|^student$|^teacher$", "a checkpoint of Alice (fmhub convert alice)"),
    (r"^(image_encoder\.|mask_decoder\.|prompt_encoder\.)", "a whole Segment Anything model; give its image encoder"),
    (r"^(transformer|iou_prediction_head|mask_tokens|output_upscaling)\.", "the mask decoder of Segment Anything"),
    (r"^pos_embed$", "a ViT with a table of absolute positions, as Segment Anything's own; LVM-Med's has none"),
)


def convert(path: Path, output: Path, *, size: int = 224) -> dict[str, Any]:
    """Write a checkpoint (configuration, weights, processor) from a published file.

    Args:
        path: The ResNet's or the ViT's file.
        output: Folder to write to.
        size: Side of the input, pixels. For a ViT a multiple of its patch; its tables of relative positions, stored
            for 1024, are interpolated as its authors' code does at each call.

    Returns:
        Facts for the model card, by name.

    Raises:
        InvalidCheckpoint: The file is damaged or not of this layout; the text says what it is, or what is missing.
    """
    published = read_state_dict(path)
    weights = {name.removeprefix("model."): tensor for name, tensor in published.items()}
    if "conv1.weight" in weights:
        config, weights, facts = _resnet(weights, path.name)
        prefix = "resnet."
    elif "patch_embed.proj.weight" in weights and "pos_embed" not in weights:
        config, weights, facts = _vit(weights, size, path.name)
        prefix = "vit."
    else:
        raise InvalidCheckpoint(f"{path.name} does not hold LVM-Med's weights: {_what_else(weights)}")
    model = LVMMedModel(config)
    load_exactly(model, {prefix + k: v.float() for k, v in weights.items()}, path.name, "LVM-Med's weights")
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    LVMMedProcessor(size=size).save_pretrained(output)
    return {
        **facts,
        "image_size": f"{size} pixels",
        "parameters": model.num_parameters(),
        "bytes_of_the_official_file": path.stat().st_size,
        "licence": "CC BY-NC-ND 2.0, as the authors' repository says (their Hub copy says cc-by-nc-2.0); do not "
        "pass the converted weights on without their permission",
    }


def _resnet(weights: dict[str, Tensor], source: str) -> tuple[LVMMedConfig, dict[str, Tensor], dict[str, Any]]:
    classifier = sorted(name for name in weights if name.startswith("fc."))
    kept = {name: tensor for name, tensor in weights.items() if name not in classifier}
    depths = _depths(kept)
    block = "bottleneck" if any(".conv3." in name for name in kept) else "basic"
    arch = next((name for name, sizes in RESNETS.items() if sizes == (block, depths)), None)
    if arch is None:
        raise InvalidCheckpoint(
            f"{source} does not hold LVM-Med's weights: stages of {list(depths)} {block} blocks are those of none of "
            f"{', '.join(RESNETS)}; it has {some_names(kept)}"
        )
    facts = {"architecture": arch, "classifier_in_the_file": "left out" if classifier else "none"}
    return LVMMedConfig(arch=arch, width=kept["conv1.weight"].shape[0]), kept, facts


def _vit(weights: dict[str, Tensor], size: int, source: str) -> tuple[LVMMedConfig, dict[str, Tensor], dict[str, Any]]:
    width, _, patch = weights["patch_embed.proj.weight"].shape[:3]
    layers = {int(found[1]) for found in (re.match(r"blocks\.(\d+)\.", name) for name in weights) if found}
    tables = {n: len(t) for n, t in weights.items() if n.endswith("rel_pos_h") and n.startswith("blocks.")}
    if size % patch:
        raise InvalidCheckpoint(f"size={size} is no multiple of this ViT's patches of {patch} pixels")
    if not tables or "neck.0.weight" not in weights:
        raise InvalidCheckpoint(
            f"{source} does not hold LVM-Med's weights: a ViT of width {width} without "
            f"{'tables of relative positions' if not tables else 'a neck'}; it has {some_names(weights)}"
        )
    # Window blocks have the shortest tables; the blocks that see the whole image the longer ones.
    shortest = min(tables.values())
    whole = sorted(int(name.split(".")[1]) for name, rows in tables.items() if rows > shortest)
    config = LVMMedConfig(
        arch="sam_vit",
        image_size=size,
        patch_size=patch,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // weights["blocks.0.attn.rel_pos_h"].shape[1],
        window_size=(shortest + 1) // 2,
        global_layers=whole,
        neck_size=weights["neck.0.weight"].shape[0],
    )
    rows = 2 * (size // patch) - 1
    ours = {}
    for name, tensor in weights.items():
        if re.search(r"rel_pos_[hw]$", name) and len(tensor) > shortest:
            tensor = F.interpolate(tensor.T[None].float(), size=rows, mode="linear")[0].T.contiguous()
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        ours[name] = tensor
    facts = {"architecture": f"ViT of width {width}, {len(layers)} layers, whole-image attention in {whole}"}
    return config, ours, facts


def _depths(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return how many blocks each stage has."""
    blocks: dict[int, int] = {}
    for name in weights:
        if found := re.match(r"layer(\d+)\.(\d+)\.conv1\.weight$", name):
            stage, block = int(found[1]), int(found[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    return tuple(blocks[stage] for stage in sorted(blocks))


def _what_else(weights: Mapping[str, Tensor]) -> str:
    for pattern, what in _STRANGERS:
        if any(re.search(pattern, name) for name in weights):
            return f"it is {what}"
    return f"neither conv1.weight nor patch_embed.proj.weight is in it, but {some_names(weights)}"
