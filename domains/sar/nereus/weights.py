"""Names of Nereus's weights: the published layouts and ours, which are transformers' own under a prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

HEAD = "classifier.1."
"""Where transformers' ``ResNetForImageClassification`` keeps its linear layer."""

# transformers before version 5 named a ViT's weights by other paths; tried in order.
_VIT_RULES = (
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.query\.", r"layers.\1.attention.q_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.key\.", r"layers.\1.attention.k_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.value\.", r"layers.\1.attention.v_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.attention.o_proj."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.mlp.fc2."),
    (r"^encoder\.layer\.(\d+)\.", r"layers.\1."),
)
_POOLER = "pooler."


def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of `NereusModel`, a regression head's left out.

    Args:
        weights: Of transformers' ``ResNetModel`` or ``ViTModel``, or of a model with a head on one, whose backbone's
            names begin with ``resnet.`` or ``vit.``. A ViT's pooler, which DINO does not have, is left out.
    """
    renamed: dict[str, Tensor] = {}
    vit = any("patch_embeddings" in name for name in weights)
    prefix = "vit." if vit else "resnet."
    for name, tensor in weights.items():
        name = name.removeprefix(prefix)
        if name.startswith(("classifier.", _POOLER)):
            continue
        if vit:
            for pattern, ours in _VIT_RULES:
                name, count = re.subn(pattern, ours, name)
                if count:
                    break
        renamed[prefix + name] = tensor
    return renamed
