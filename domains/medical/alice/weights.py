"""Names of Alice's weights: the published code's and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_RULES = (
    (r"^backbone\.model_down\.", "encoder."),
    (r"^backbone\.decoder\.(layers\.\d+\.)Upsample\.", r"decoder.\1upsample."),
    (r"^backbone\.decoder\.", "decoder."),
    (r"^backbone\.final\.0\.", "decoder.final."),
    (r"^head\.mlp3\.", "head.from_encoder."),
    (r"^head\.mlp4\.", "head.from_decoder."),
    (r"^head\.last_layer\.weight_g$", "head.class_prototypes.gain"),
    (r"^head\.last_layer\.weight_v$", "head.class_prototypes.direction"),
    (r"^head\.last_layer2\.weight_g$", "head.token_prototypes.gain"),
    (r"^head\.last_layer2\.weight_v$", "head.token_prototypes.direction"),
    (r"^casa\.Cross_Att\.MH_attn\.w_qs\.", "casa.queries."),
    (r"^casa\.Cross_Att\.MH_attn\.w_ks\.", "casa.keys."),
    (r"^casa\.Cross_Att\.MH_attn\.w_vs\.", "casa.values."),
    (r"^casa\.Cross_Att\.MH_attn\.fc\.", "casa.out."),
    (r"^casa\.Cross_Att\.MH_attn\.layer_norm\.", "casa.norm1."),
    (r"^casa\.Cross_Att\.pos_ffn\.w_1\.", "casa.expand."),
    (r"^casa\.Cross_Att\.pos_ffn\.w_2\.", "casa.contract."),
    (r"^casa\.Cross_Att\.pos_ffn\.layer_norm\.", "casa.norm2."),
)
# What the published code keeps and never uses: outputs of the coarser resolutions, a mask token, projections of CASA,
# and the numbers of relative positions, which follow from the window's size.
_UNUSED = re.compile(r"^backbone\.final\.[12]\.|\.mask_token$|^casa\.projection_|\.relative_position_index$")


def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published nnFormer, head or CASA under our names; what the published code never uses is left out.

    Args:
        weights: Names that begin with ``backbone.``, ``head.`` or ``casa.``.
    """
    renamed = {}
    for name, tensor in weights.items():
        if _UNUSED.search(name):
            continue
        for pattern, ours in _RULES:
            name, count = re.subn(pattern, ours, name)
            if count:
                break
        renamed[name] = tensor
    return renamed
