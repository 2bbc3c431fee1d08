"""netFound's pretext tasks: masked tokens, swapped bursts, hidden metadata and directions (paper, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.network.netfound.configuration import NetFoundConfig
from domains.network.netfound.heads import AttentivePooling, TokenHead
from domains.network.netfound.modeling import NetFoundModel, scaled_metadata
from hub.modeling import PretextModel, PretextOutput, mean_and_std
from hub.ssl.decorrelation import vicreg
from hub.ssl.distributed import all_reduce_sum, mean_share, world_size
from hub.ssl.masking import IGNORED
from hub.ssl.multitask import weighted_sum

VICREG_COLLAPSED = 25.0
"""About what VICReg scores for a collapsed encoder; divided by it, the loss is of the size of the others."""


@dataclass
class Predictions:
    """What the heads say of a batch.

    Attributes:
        tokens: ``(masked tokens, vocabulary)`` logits, in the order of the batch; or ``(masked tokens, levels)``.
        swapped: ``(batch, 2)`` logits.
        metadata: ``(batch, bursts, 3)``: gap, bytes and packets, scaled.
        direction: ``(batch, bursts, 2)`` logits; class 1 is from the initiator.
    """

    tokens: Tensor
    swapped: Tensor
    metadata: Tensor
    direction: Tensor


def metadata_targets(metadata: Tensor, scale: str) -> Tensor:
    """Return what the metadata head predicts, ``(..., 3)``: gap, bytes and packets.

    Args:
        metadata: ``(..., 4)`` as the processor makes them.
        scale: ``raw``: seconds, thousands of bytes, packets; ``log``: as the model reads them.
    """
    _, size, packets, gap = scaled_metadata(metadata, scale).unbind(-1)
    return torch.stack([gap if scale == "log" else gap / 1000, size, packets], dim=-1)


def mean_or_zero(values: Tensor) -> Tensor:
    """Return this process's share of the mean over all values of all processes; zero where there are none."""
    total = all_reduce_sum(torch.tensor(float(values.numel()), device=values.device))
    return values.sum() * (world_size() / total.clamp(min=1))


class NetFoundForPreTraining(PretextModel):
    """Encoder and heads with the weighted sum of four losses."""

    config: NetFoundConfig
    config_class = NetFoundConfig
    base_model_prefix = "netfound"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = NetFoundModel._no_split_modules
    # An encoder's checkpoint has no heads; they start fresh.
    _keys_to_ignore_on_load_missing = NetFoundModel._keys_to_ignore_on_load_unexpected

    def __init__(self, config: NetFoundConfig) -> None:
        """Create encoder and heads with fresh weights."""
        super().__init__(config)
        self.netfound = NetFoundModel(config)
        self.lm_head = TokenHead(config)
        self.pooling_head = AttentivePooling(config)
        self.swap_head = nn.Linear(config.hidden_size, 2)
        self.metadata_head = nn.Linear(config.hidden_size, 3)
        self.direction_head = nn.Linear(config.hidden_size, 2)
        if config.view_loss_weight:
            self.view_head = nn.Sequential(
                nn.Linear(2 * config.hidden_size, config.view_size),
                nn.LayerNorm(config.view_size),
                nn.GELU(),
                nn.Linear(config.view_size, config.view_size),
            )
        self.post_init()

    def predict(self, states: Tensor, attention_mask: Tensor, labels: Tensor) -> Predictions:
        """Return the heads' predictions.

        Args:
            states: ``(batch, bursts * tokens, hidden)`` of the encoder.
            attention_mask: ``(batch, bursts, tokens)`` bool.
            labels: The same shape, ids to predict or -100: logits of all tokens would fill the memory.
        """
        chosen = labels != IGNORED
        masked, words = states[chosen.flatten(1)], self.netfound.embedding.words.weight
        if self.config.softmax_levels:
            fields = (labels[chosen] - 1) // self.config.softmax_levels
            tokens = self.lm_head.within_fields(masked, words, fields, self.config.softmax_levels)
        else:
            tokens = self.lm_head(masked, words)
        cls = states.unflatten(1, attention_mask.shape[1:])[:, :, 0]
        real = attention_mask[..., 0]
        if self.config.reference_padding:
            real = torch.ones_like(real)
        return Predictions(
            tokens=tokens,
            swapped=self.swap_head(self.pooling_head(cls, real)),
            metadata=self.metadata_head(cls),
            direction=self.direction_head(cls),
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        metadata: Tensor,
        protocol: Tensor,
        labels: Tensor,
        targets: Tensor,
        hidden: Tensor,
        swapped: Tensor,
    ) -> PretextOutput:
        """Predict what was taken from the flows.

        Args:
            input_ids: As for the encoder, the next three too; corrupted.
            attention_mask: ``(batch, bursts, tokens)``.
            metadata: ``(batch, bursts, 4)``.
            protocol: ``(batch,)``.
            labels: ``(batch, bursts, tokens)`` ids to predict, -100 elsewhere.
            targets: ``(batch, bursts, 4)`` metadata as they were.
            hidden: ``(batch, bursts)`` bool, whose metadata are hidden.
            swapped: ``(batch,)`` 1 where a burst was swapped.

        Returns:
            The weighted sum of the losses; each of them, and the share of masked tokens and of swaps told right, as
            metrics.
        """
        mask = attention_mask.bool()
        output = self.netfound(input_ids, mask, metadata, protocol)
        said = self.predict(output.last_hidden_state, mask, labels)
        ids = labels[labels != IGNORED]
        if self.config.softmax_levels:
            ids = (ids - 1) % self.config.softmax_levels
        losses = self.losses(said, ids, targets, hidden, swapped)
        if self.config.view_loss_weight:
            first, second = self.view_head(mean_and_std(output.last_hidden_state, output.mask)).chunk(2)
            losses["view"] = vicreg(first, second) / VICREG_COLLAPSED
        combined = weighted_sum(losses, self.config.losses)
        right = (said.tokens.argmax(-1) == ids).float()
        return PretextOutput(
            loss=combined.total,
            metrics={
                **{f"{name}_loss": term for name, term in combined.terms.items()},
                "token_accuracy": mean_or_zero(right),
                "swap_accuracy": mean_share((said.swapped.argmax(-1) == swapped).float()),
            },
            states=output.last_hidden_state,
            states_mask=mask.flatten(1),
        )

    def losses(
        self, said: Predictions, ids: Tensor, targets: Tensor, hidden: Tensor, swapped: Tensor
    ) -> dict[str, Tensor]:
        """Return the paper's four losses by name.

        Args:
            said: Of the heads.
            ids: ``(masked tokens,)`` right class of each.
            targets: As for ``forward``, the next two too.
            hidden: ``(batch, bursts)``.
            swapped: ``(batch,)``.
        """
        error = (said.metadata - metadata_targets(targets, self.config.metadata_scale)).abs()
        # The published code hides padded bursts too, which have metadata of zero to predict, but no direction.
        sided = hidden & (targets[..., 0] != 0)
        sides = said.direction[sided]
        if self.config.generation == 1:
            # The published first generation takes the mean over all bursts, and the softmax of the logits twice.
            sides = sides.softmax(-1)
            metadata_loss = mean_share((error * hidden.unsqueeze(-1)).flatten())
        else:
            metadata_loss = mean_or_zero(error[hidden])
        forward = (targets[..., 0] > 0).long()[sided]
        return {
            "mlm": mean_or_zero(F.cross_entropy(said.tokens.float(), ids, reduction="none")),
            "swap": mean_share(F.cross_entropy(said.swapped.float(), swapped, reduction="none")),
            "metadata": metadata_loss,
            "direction": mean_or_zero(F.cross_entropy(sides.float(), forward, reduction="none")),
        }
