"""Official GraphMAE files (``checkpoint.pt``, a plain state dict) to checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from domains.graphs.graphmae.configuration import GraphMAEConfig
from domains.graphs.graphmae.pretraining import GraphMAEForPreTraining
from domains.graphs.graphmae.weights import from_published
from domains.graphs.processing import GraphProcessor
from hub.errors import InvalidCheckpoint
from hub.official_files import load_exactly, read_state_dict, some_names


def convert(
    path: Path,
    output: Path,
    *,
    gamma: int = 3,
    activation: str = "relu",
    pooling: str = "mean",
    features: str = "given",
    normalise: str = "none",
) -> dict[str, Any]:
    """Write a checkpoint (configuration, weights, processor) from an official file.

    Sizes, kinds of layers, normalisation and residual paths are read from the weights. The rest is not in the file.

    Args:
        path: The official file: the state dict of the whole pretraining model, of the DGL or the PyG branch.
        output: Folder to write to.
        gamma: Exponent of the loss; of no matter for embeddings.
        activation: ``relu`` or ``elu`` where the weights hold no PReLU.
        pooling: Default reduction over nodes.
        features: How node features are made, see `GraphProcessor`.
        normalise: How they are normalised.

    Returns:
        Facts for the model card, by name.

    Raises:
        InvalidCheckpoint: The file is damaged, wants something run, or is not a GraphMAE checkpoint; the text names
            the missing and unexpected keys.
    """
    weights = read_state_dict(path)
    config = config_from_weights(weights, path.name, gamma=gamma, activation=activation, pooling=pooling)
    model = fill(config, weights, path.name)
    try:
        processor = GraphProcessor(config.input_dim, features, normalise)
    except ValueError as error:
        raise InvalidCheckpoint(f"{path.name}: {error}") from None
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return {
        "parameters": model.num_parameters(),
        "layers": f"{config.num_hidden_layers} ({config.encoder})",
        "features_of_a_node": config.input_dim,
        "bytes_of_the_official_file": path.stat().st_size,
    }


def config_from_weights(weights: Mapping[str, Tensor], source: str, **given: Any) -> GraphMAEConfig:
    """Return the configuration that published weights fit.

    Args:
        weights: Under their published names.
        source: What messages call the file.
        given: Fields that the weights do not tell; ``activation`` holds where there is no PReLU.

    Raises:
        InvalidCheckpoint: They lack what sizes are read from, or have a layer that is not offered.
    """
    ours = from_published(weights)
    if any(key.startswith(("encoder.gcn_layers", "decoder.gcn_layers")) for key in weights):
        raise InvalidCheckpoint(f"{source} has GCN layers, whose published bias is scaled by degrees; not offered")
    if any(key.endswith(".eps") and bool(tensor.any()) for key, tensor in weights.items()):
        raise InvalidCheckpoint(f"{source} has GIN layers with an epsilon other than 0; not offered")
    first = "graphmae.layers.0."
    width_from = first + ("linear.weight" if first + "linear.weight" in ours else "contract.weight")
    if not {"mask_token", "bridge.weight", width_from} <= ours.keys():
        raise InvalidCheckpoint(
            f"{source} does not hold GraphMAE's weights. Missing: enc_mask_token, encoder_to_decoder.weight or the "
            f"first layer. Unexpected: {some_names(weights)}."
        )
    layers = {m[1] for m in (re.match(r"graphmae\.layers\.(\d+)\.", k) for k in ours) if m}
    hidden = ours[width_from].shape[0]
    if first + "norm.running_mean" in ours:
        norm = "batchnorm"
    else:
        norm = "layernorm" if first + "norm.weight" in ours else "none"
    fields: dict[str, Any] = {
        "input_dim": ours["mask_token"].shape[-1],
        "encoder": "gat" if first + "linear.weight" in ours else "gin",
        "decoder": _decoder(ours),
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "norm": norm,
        "residual": any(re.match(r"graphmae\.layers\.\d+\.residual\.", key) for key in ours),
        "concat_hidden": len(layers) > 1 and ours["bridge.weight"].shape[1] == hidden * len(layers),
        **given,
    }
    if first + "activation.weight" in ours:
        fields["activation"] = "prelu"
    for field, name in (
        ("num_attention_heads", first + "attention_source"),
        ("num_output_heads", "decoder.attention_source"),
    ):
        if name in ours:
            fields[field] = ours[name].shape[0]
    try:
        return GraphMAEConfig(**fields)
    except (StrictDataclassError, ValueError) as error:
        raise InvalidCheckpoint(f"{source} does not hold GraphMAE's weights: {error}") from None


def fill(config: GraphMAEConfig, weights: Mapping[str, Tensor], source: str) -> GraphMAEForPreTraining:
    """Return the model with published weights, which must be exactly its own.

    Raises:
        InvalidCheckpoint: Keys are missing, unexpected, or of another shape; the text names them.
    """
    model = GraphMAEForPreTraining(config)
    load_exactly(model, from_published(weights), source, "GraphMAE's weights")
    return model


def _decoder(ours: Mapping[str, Tensor]) -> str:
    for name, kind in (("linear.weight", "gat"), ("expand.weight", "gin"), ("3.weight", "mlp")):
        if f"decoder.{name}" in ours:
            return kind
    return "linear"
