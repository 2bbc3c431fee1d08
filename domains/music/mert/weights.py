"""Names of MERT's weights: the published layout, that of its training code, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
# Name in the training code's checkpoints to the published one, tried in order; the heads have names of ours.
_TRAINED = (
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"^(encoder\.layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"^(encoder\.layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
    (r"^final_proj\.", "code_head.projection."),
    (r"^label_embs_concat$", "code_head.embeddings"),
    (r"^encoder_cqt_model\.fc\.", "cqt_head."),
)
_KERNELS = re.compile(r"^(feature_extractor_cqt|encoder_cqt_model\.spec_layer)\.")
"""Kernels of the constant-Q spectrum, which are computed."""


def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of `MertModel` from published weights, of either spelling of weight normalisation."""
    renamed = {}
    for name, tensor in weights.items():
        if not _KERNELS.match(name):
            stem, _, last = name.rpartition(".")
            renamed[f"{stem}.{_WEIGHT_NORM[last]}" if last in _WEIGHT_NORM else name] = tensor
    return renamed


def from_training(weights: Mapping[str, Tensor], codebooks: int) -> dict[str, Tensor]:
    """Return a state dict of `MertForPreTraining` from the ``model`` part of a training checkpoint.

    Args:
        weights: Under fairseq's names.
        codebooks: Whose embeddings lie one after the other in one table.
    """
    renamed = {}
    for name, tensor in weights.items():
        for pattern, ours in _TRAINED:
            name, count = re.subn(pattern, ours, name)
            if count:
                break
        renamed[name] = tensor.unflatten(0, (codebooks, -1)) if name == "code_head.embeddings" else tensor
    heads = ("code_head.", "cqt_head.")
    return {n if n.startswith(heads) else f"mert.{n}": t for n, t in from_published(renamed).items()}
