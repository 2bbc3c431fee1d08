"""The parts of MERT's encoder that HuBERT lacks; everything else is transformers' own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.hubert.modeling_hubert import (
    HubertEncoderLayer,
    HubertEncoderLayerStableLayerNorm,
    HubertPositionalConvEmbedding,
)

from domains.music.mert.configuration import MertConfig
from domains.music.mert.cqt import OCTAVES


class FeatureProjection(nn.Module):
    """Frame features to token states; wider than HuBERT's where a constant-Q spectrum is appended."""

    def __init__(self, config: MertConfig) -> None:
        """Create the layers."""
        super().__init__()
        width = config.conv_dim[-1]
        if config.feature_extractor_cqt:
            width += config.feature_extractor_cqt_bins
        if config.feature_extractor_chroma:
            width += config.feature_extractor_cqt_bins // OCTAVES
        self.layer_norm = (
            nn.LayerNorm(width, eps=config.layer_norm_eps) if config.feat_proj_layer_norm else nn.Identity()
        )
        self.projection = nn.Linear(width, config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, frames, features)`` to ``(batch, frames, hidden)``."""
        return self.dropout(self.projection(self.layer_norm(features)))


class DeepNormLayer(HubertEncoderLayer):  # type: ignore[misc]
    """A layer whose residuals weigh ``(2 * layers) ** 0.25`` (Wang et al. 2022, DeepNet, for encoders)."""

    def __init__(self, config: MertConfig) -> None:
        """Create the layer; `MertModel` gives it DeepNorm's initial weights."""
        super().__init__(config)
        self.alpha = (2 * config.num_hidden_layers) ** 0.25

    @property
    def shrunk(self) -> tuple[nn.Linear, ...]:
        """The linear maps whose initial weights DeepNorm divides by ``(8 * layers) ** 0.25``."""
        attention, feed_forward = self.attention, self.feed_forward
        return attention.v_proj, attention.out_proj, feed_forward.intermediate_dense, feed_forward.output_dense

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Map ``(batch, frames, hidden)`` to the same shape."""
        attended, _ = self.attention(hidden_states, attention_mask=attention_mask, **kwargs)
        states = self.layer_norm(self.alpha * hidden_states + self.dropout(attended))
        return self.final_layer_norm(self.alpha * states + self.feed_forward(states))


class EncoderStack(nn.Module):
    """The positional convolution and the layers, under the published names; `MertModel` runs them."""

    def __init__(self, config: MertConfig) -> None:
        """Create the layers of the variant that the configuration names."""
        super().__init__()
        kind: type[nn.Module] = HubertEncoderLayer
        if config.do_stable_layer_norm:
            kind = HubertEncoderLayerStableLayerNorm
        elif config.deepnorm:
            kind = DeepNormLayer
        self.pos_conv_embed = HubertPositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(kind(config) for _ in range(config.num_hidden_layers))
