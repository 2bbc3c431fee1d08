"""Names of TERA's weights: the published layout and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Published name (of its `Transformer` or `SpecHead` dictionary) to ours, tried in order.
_RULES = (
    (r"^Transformer\.input_representations\.spec_transform\.", "tera.input.projection."),
    (r"^Transformer\.input_representations\.LayerNorm\.", "tera.input.norm."),
    (
        r"^Transformer\.encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.",
        r"tera.layers.\1.attention.\2.",
    ),
    (r"^Transformer\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"tera.layers.\1.attention.output."),
    (
        r"^Transformer\.encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.",
        r"tera.layers.\1.attention_norm.",
    ),
    (r"^Transformer\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r"tera.layers.\1.expand."),
    (r"^Transformer\.encoder\.layer\.(\d+)\.output\.dense\.", r"tera.layers.\1.contract."),
    (r"^Transformer\.encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"tera.layers.\1.output_norm."),
    (r"^Transformer\.encoder\.LayerNorm\.(\d+)\.", r"tera.hidden_norms.\1."),
    (r"^SpecHead\.dense\.", "head.dense."),
    (r"^SpecHead\.LayerNorm\.", "head.norm."),
    (r"^SpecHead\.output\.", "head.output."),
)
# With `pre_layer_norm` the published code saves two of its normalisations under a second name each.
_ALIASES = re.compile(r"^Transformer\.encoder\.layer\.\d+\.(attention\.)?LayerNorm\.")


def our_name(published: str) -> str | None:
    """Return our name for a published weight; ``None`` for a second name of one, an unknown name as it is.

    Files from 2020 may call the weight and bias of a normalisation ``gamma`` and ``beta``.
    """
    published = re.sub(r"\bgamma$", "weight", re.sub(r"\bbeta$", "bias", published))
    if _ALIASES.match(published):
        return None
    for pattern, ours in _RULES:
        name, count = re.subn(pattern, ours, published)
        if count:
            return name
    return published


def from_published(weights: Mapping[str, Tensor], share_layer: bool = False) -> dict[str, Tensor]:
    """Return a state dict of `TeraForPreTraining`.

    Args:
        weights: The published tensors, ``Transformer.*`` and ``SpecHead.*``.
        share_layer: The file repeats one layer at every depth; keep it once.
    """
    renamed = {name: tensor for key, tensor in weights.items() if (name := our_name(key)) is not None}
    if share_layer:
        repeated = re.compile(r"^tera\.layers\.(?!0\.)\d+\.")
        renamed = {name: tensor for name, tensor in renamed.items() if not repeated.match(name)}
    return renamed
