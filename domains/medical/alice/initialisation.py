"""Fresh weights for the layers of both backbones and of the heads."""

from __future__ import annotations

from typing import Any

from monai.networks.nets.swin_unetr import WindowAttention as SwinAttention
from torch import nn
from transformers import initialization as init

from domains.medical.alice.attention import WindowAttention, relative_index
from domains.medical.alice.nnformer import Encoder, position_table

STD = 0.02
"""Of linear layers and of the biases of relative positions (Alice's code)."""


def initialise(module: Any) -> None:
    """Give a layer fresh weights; what was read from a checkpoint is left as it is."""
    if isinstance(module, nn.Linear):
        init.trunc_normal_(module.weight, std=STD)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        init.kaiming_uniform_(module.weight, a=5**0.5)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        init.trunc_normal_(module.relative_position_bias_table, std=STD)
        # Not in a checkpoint: it follows from the window's size.
        init.copy_(module.relative_position_index, relative_index(module.window, module.published))
    elif isinstance(module, SwinAttention):
        init.trunc_normal_(module.relative_position_bias_table, std=STD)
    elif isinstance(module, Encoder):
        init.copy_(module.absolute_pos_embed, position_table(module.config))
