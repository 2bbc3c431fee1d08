"""Names of GraphMAE's weights: the published layouts (DGL and PyG branches) and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_ENCODER, _DECODER = r"^encoder\.(?:gat_layers|layers)\.(\d+)\.", r"^decoder\.(?:gat_layers|layers)\.0\."
# Inside one layer: the published name to ours. The PyG branch calls the MLP of a GIN layer `nn`.
_LAYER = (
    (r"(?:fc|lin_src|lin)\.weight$", "linear.weight"),
    (r"(?:attn_l|att_src)$", "attention_source"),
    (r"(?:attn_r|att_dst)$", "attention_target"),
    (r"res_fc\.weight$", "residual.weight"),
    (r"(?:apply_func|nn)\.(?:mlp\.)?linears\.0\.", "expand."),
    (r"(?:apply_func|nn)\.(?:mlp\.)?linears\.1\.", "contract."),
    (r"(?:apply_func|nn)\.(?:mlp\.)?norms\.0\.", "inner_norm."),
    (r"(?:apply_func|nn)\.(?:mlp\.)?activations\.0\.", "inner_activation."),
    (r"(?:apply_func|nn)\.norm\.", "norm."),
    (r"(?:apply_func|nn)\.act\.", "activation."),
)
# The PyG branch saves one tensor under two names; epsilon of GIN is a constant 0.
_LEFT_OUT = re.compile(r"\.(?:lin_dst\.weight|eps)$")


def our_name(published: str) -> str | None:
    """Return our name for a published weight; ``None`` for one that is not needed, an unknown name as it is."""
    if _LEFT_OUT.search(published):
        return None
    if published == "enc_mask_token":
        return "mask_token"
    if published.startswith("encoder_to_decoder."):
        return "bridge." + published.removeprefix("encoder_to_decoder.")
    for prefix, ours in ((_ENCODER, r"graphmae.layers.\1."), (_DECODER, "decoder.")):
        match = re.match(prefix, published)
        if match:
            inner = published[match.end() :]
            for pattern, name in _LAYER:
                inner, count = re.subn("^" + pattern, name, inner)
                if count:
                    break
            return match.expand(ours) + inner
    return published


def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of `GraphMAEForPreTraining` from published names."""
    renamed = {}
    for key, tensor in weights.items():
        name = our_name(key)
        if name is not None:
            # Attention vectors are published with an axis for the nodes.
            renamed[name] = tensor[0] if name.endswith(("attention_source", "attention_target")) else tensor
    return renamed
