"""Files of Alice's training code, and of the Swin encoders that MONAI, VoCo and SuPreM share, to checkpoints.

All are ordinary PyTorch files, whose names come with many prefixes; the layout is told by what follows them. Only the
encoder is kept: decoders and heads are listed as left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from domains.medical.alice.configuration import PATCH, AliceConfig
from domains.medical.alice.modeling import AliceModel
from domains.medical.alice.processing import AliceProcessor
from domains.medical.alice.weights import from_published
from hub.errors import InvalidCheckpoint
from hub.official_files import load_exactly, read_official, read_state_dict, some_names

NETWORKS = ("teacher", "student")
_WRAPPERS = ("state_dict", "model", "net", "network_weights")
"""Keys under which files keep their weights beside other things."""
_NNFORMER = re.compile(r"^(.*?)model_down\.patch_embed\.proj1\.conv1\.weight$")
_SWIN = re.compile(r"^(.*?)patch_embed\.proj\.weight$")
_SWIN_ENCODER = re.compile(r"^(patch_embed|layers[1-4]c?)\.")
_PUBLISHED_WINDOW = (-125.0, 225.0)
"""Hounsfield units that Alice's code maps to 0 and 1."""
_ROI = {"nnformer": 64, "swin_unetr": 96}


class _Arguments:
    """Stands for ``argparse.Namespace``, in which training files keep their settings; only data."""


def convert(
    path: Path,
    output: Path,
    *,
    network: str = "teacher",
    roi: int = 0,
    low: float | str | None = None,
    high: float | str | None = None,
    spacing: float | str | None = None,
    table: str = "",
) -> dict[str, Any]:
    """Write a checkpoint (configuration, weights, processor) from a published file.

    Args:
        path: A training file of Alice (student and teacher) or what its ``extract_backbone_weights`` makes of one; or a
            file with a Swin encoder under any of the names in use.
        output: Folder to write to.
        network: Of a training file: ``teacher`` or ``student``.
        roi: Side of the windows that the network is used for, voxels; by default 64 for Alice and 96 for a Swin.
        low: Hounsfield units that become 0; -125 for Alice. Of a Swin no processor is written without both ends.
        high: Hounsfield units that become 1; 225 for Alice.
        spacing: Millimetres that volumes are resampled to; not at all by default.
        table: File with the position table of an Alice encoder, one tensor; the training code never saves it, and
            without it there is none: zeros, the mean of what the code draws.

    Returns:
        Facts for the model card, by name.

    Raises:
        InvalidCheckpoint: The file is damaged or of none of these layouts; the text names missing and unexpected keys.
    """
    if network not in NETWORKS:
        raise InvalidCheckpoint(f"network={network!r} is none of {', '.join(NETWORKS)}")
    found = _weights(read_official(path, [(_Arguments, "argparse.Namespace")]), network, path.name)
    backbone, weights, left_out = _encoder(found, path.name)
    if table and backbone == "nnformer":
        weights["absolute_pos_embed"] = _only_tensor(Path(table))
    config = config_from_weights(backbone, weights, roi, path.name)
    model = AliceModel(config)
    # Neither is a weight: they follow from the configuration.
    own = {k: v for k, v in model.encoder.state_dict().items() if k.endswith(("relative_position_index", "pos_embed"))}
    load_exactly(model.encoder, {**own, **weights}, path.name, "an encoder of Alice or of SwinUNETR")
    processor = _processor(backbone, config, low, high, spacing, path.name)
    output.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(output)
    if processor is not None:
        processor.save_pretrained(output)
    facts: dict[str, Any] = {"backbone": backbone, "parameters": model.num_parameters()}
    if left_out:
        facts["left_out"] = some_names(left_out)
    if backbone == "nnformer":
        facts["position_table"] = "from the file" if "absolute_pos_embed" in weights else "none: zeros"
    if processor is None:
        facts["note"] = (
            "The file does not tell which Hounsfield units its network was trained on, so there is no processor, and "
            "files cannot be embedded; convert again with the options low and high, and spacing (mm) where it had one."
        )
    return facts


def config_from_weights(backbone: str, weights: Mapping[str, Tensor], roi: int, source: str) -> AliceConfig:
    """Return the configuration that an encoder's weights fit.

    Args:
        backbone: ``nnformer`` or ``swin_unetr``.
        weights: Under our names, without a prefix.
        roi: Side of the windows, or 0.
        source: What messages call the file.

    Raises:
        InvalidCheckpoint: They lack what sizes are read from, or have sizes that are not offered.
    """
    try:
        return AliceConfig(**(_nnformer if backbone == "nnformer" else _swin)(weights, roi or _ROI[backbone]))
    except (KeyError, ValueError, IndexError, StrictDataclassError) as error:
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise InvalidCheckpoint(
            f"{source} does not hold an encoder that is offered ({reason}); it has {some_names(weights)}"
        ) from None


def _weights(content: Any, network: str, source: str) -> dict[str, Tensor]:
    """Return the tensors of a file, whatever they are kept in."""
    if isinstance(content, Mapping) and all(isinstance(content.get(n), Mapping) for n in NETWORKS):
        content = content[network]
    elif isinstance(content, Mapping):
        # ``extract_backbone_weights`` may leave an empty entry of this name beside the weights.
        content = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping) and content[k]), content)
    if not isinstance(content, Mapping):
        raise InvalidCheckpoint(f"{source} holds {type(content).__name__}; a dictionary of tensors was expected")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _encoder(found: Mapping[str, Tensor], source: str) -> tuple[str, dict[str, Tensor], list[str]]:
    """Tell the layout; return the backbone's name, its encoder's weights under our names, and what else there is."""
    for name, tensor in found.items():
        if prefix := _NNFORMER.match(name):
            start = f"{prefix[1]}model_down."
            inside = {f"backbone.{n.removeprefix(prefix[1])}": t for n, t in found.items() if n.startswith(start)}
            ours = {n.removeprefix("encoder."): t for n, t in from_published(inside).items()}
            return "nnformer", ours, [n for n in found if not n.startswith(start)]
        if (prefix := _SWIN.match(name)) and tensor.ndim == 5:
            bare = {n.removeprefix(prefix[1]): t for n, t in found.items() if n.startswith(prefix[1])}
            inside = {n: t for n, t in bare.items() if _SWIN_ENCODER.match(n)}
            ours = {
                n.replace("mlp.fc1.", "mlp.linear1.").replace("mlp.fc2.", "mlp.linear2."): t
                for n, t in inside.items()
                if not n.endswith("relative_position_index")
            }
            return "swin_unetr", ours, [n for n in found if n.removeprefix(prefix[1]) not in inside]
    raise InvalidCheckpoint(
        f"{source} is of no layout that is known: neither Alice's (model_down.patch_embed.proj1...) nor that of a Swin "
        f"over volumes (patch_embed.proj, layers1.0...); it has {some_names(found)}"
    )


def _nnformer(weights: Mapping[str, Tensor], roi: int) -> dict[str, Any]:
    depths, tables = _stages(weights, r"^layers\.(\d+)\.blocks\.(\d+)\.")
    sizes = {
        "backbone": "nnformer",
        "embed_dim": weights["patch_embed.norm.weight"].shape[0],
        "depths": depths,
        "num_heads": [table.shape[1] for table in tables],
        "window_size": [_window(table) for table in tables],
        "position_table": "zeros",
    }
    if "absolute_pos_embed" in weights:
        roi = PATCH * round(weights["absolute_pos_embed"].shape[1] ** (1 / 3))
    return {**sizes, "roi": [roi] * 3}


def _swin(weights: Mapping[str, Tensor], roi: int) -> dict[str, Any]:
    projection = weights["patch_embed.proj.weight"]
    width, channels, *patch = projection.shape
    if channels != 1 or patch != [PATCH] * 3:
        raise ValueError(f"{channels} input channels, patches of {patch} voxels; 1 and {PATCH} are offered")
    depths, tables = _stages(weights, r"^layers([1-4])\.0\.blocks\.(\d+)\.")
    return {
        "backbone": "swin_unetr",
        "embed_dim": width,
        "depths": depths,
        "num_heads": [table.shape[1] for table in tables],
        "window_size": [_window(table) for table in tables],
        "use_v2": any(name.startswith("layers1c.") for name in weights),
        "roi": [roi] * 3,
    }


def _stages(weights: Mapping[str, Tensor], pattern: str) -> tuple[list[int], list[Tensor]]:
    """Return the blocks of each stage, and the bias table of its first block."""
    tables: dict[int, dict[int, Tensor]] = {}
    for name, tensor in weights.items():
        if (where := re.match(pattern, name)) and name.endswith("relative_position_bias_table"):
            tables.setdefault(int(where[1]), {})[int(where[2])] = tensor
    if not tables:
        raise KeyError("relative_position_bias_table")
    return [len(tables[stage]) for stage in sorted(tables)], [tables[stage][0] for stage in sorted(tables)]


def _window(table: Tensor) -> int:
    return (round(table.shape[0] ** (1 / 3)) + 1) // 2


def _only_tensor(path: Path) -> Tensor:
    tensors = list(read_state_dict(path).values())
    if len(tensors) != 1:
        raise InvalidCheckpoint(f"{path.name} holds {len(tensors)} tensors; the position table alone was expected")
    return tensors[0]


def _processor(
    backbone: str,
    config: AliceConfig,
    low: float | str | None,
    high: float | str | None,
    spacing: float | str | None,
    source: str,
) -> AliceProcessor | None:
    if low is None and high is None and backbone == "nnformer":
        low, high = _PUBLISHED_WINDOW
    if low is None or high is None:
        return None
    try:
        bottom, top = float(low), float(high)
        return AliceProcessor(
            roi=config.roi,
            ct_window=[(bottom + top) / 2, top - bottom],
            spacing=None if spacing is None else [float(spacing)] * 3,
            modality="CT",
        )
    except ValueError as error:
        raise InvalidCheckpoint(f"{source}: {error}") from None
