"""The base classes of every system's model and pretext task, and their outputs."""

from __future__ import annotations

import hub.stack  # noqa: F401  # before transformers, which would fail somewhere deep

# isort: split

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from hub.errors import UnsupportedOption

Layer = int | str | None


@dataclass
class EncoderOutput(ModelOutput):
    """Token states of one batch.

    Attributes:
        last_hidden_state: ``(batch, tokens, hidden)``.
        mask: ``(batch, tokens)`` bool, true where a token is real.
        hidden_states: The input representation and each layer's output, same shape, when asked for.
    """

    last_hidden_state: Tensor | None = None
    mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class PretextOutput(ModelOutput):
    """Loss of one pretraining batch.

    Attributes:
        loss: Scalar to minimise.
        metrics: Named scalars worth a curve (a term of the loss, a mask ratio, a codebook's perplexity).
        predictions: What the heads returned, for whoever wants to draw it.
        states: The encoder's token states of this batch, ``(batch, tokens, hidden)`` or ``(tokens, hidden)``; a task
            that returns them can be trained with self-distillation.
        states_mask: Which of them are real, the shape of ``states`` without its last axis; ``None`` when all are.
    """

    loss: Tensor | None = None
    metrics: dict[str, Tensor] | None = None
    predictions: Tensor | None = None
    states: Tensor | None = None
    states_mask: Tensor | None = None


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens: ``(batch, tokens, hidden)`` and ``(batch, tokens)`` to ``(batch, hidden)``."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def masked_std(states: Tensor, mask: Tensor) -> Tensor:
    """Population standard deviation over real tokens, ``(batch, hidden)``."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    centred = (states - masked_mean(states, mask).unsqueeze(1)) * weights
    return (centred.square().sum(1) / weights.sum(1).clamp(min=1)).sqrt()


def masked_max(states: Tensor, mask: Tensor) -> Tensor:
    """Maximum over real tokens, ``(batch, hidden)``."""
    return states.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(1)


def masked_sum(states: Tensor, mask: Tensor) -> Tensor:
    """Sum over real tokens, ``(batch, hidden)``."""
    return (states * mask.unsqueeze(-1).to(states.dtype)).sum(1)


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """State of the first token, for encoders that put a summary there, ``(batch, hidden)``."""
    return states[:, 0]


def mean_and_std(states: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation over real tokens, concatenated, ``(batch, 2 * hidden)``."""
    return torch.cat([masked_mean(states, mask), masked_std(states, mask)], dim=-1)


POOLINGS = {
    "mean": masked_mean,
    "max": masked_max,
    "sum": masked_sum,
    "first": first_token,
    "mean_std": mean_and_std,
}


class EmbeddingModel(PreTrainedModel):  # type: ignore[misc]
    """An encoder: batch to token states, mask, and one embedding per sample.

    A subclass implements ``forward(**batch, output_hidden_states=False) -> EncoderOutput``. It takes samples of
    any length that its processor lets through: what does not fit in one pass is looped over inside ``forward``.
    """

    poolings: ClassVar[tuple[str, ...]] = ("mean", "max", "mean_std")
    """Reductions offered: keys of ``POOLINGS`` and those that ``pool`` adds. ``"none"`` (token states) always is."""

    tasks: ClassVar[Mapping[str, str]] = {}
    """Further tasks served under ``/v1/models/{id}/{task}``: task name to the name of a method
    ``(batch, samples) -> list`` that returns, for each sample, a JSON-able value or a `TaskFile`."""

    def check_options(self, pooling: str | None = None, layer: Layer = None) -> None:
        """Raise UnsupportedOption when this model does not offer a pooling or layer."""
        if pooling is not None and pooling != "none" and pooling not in self.poolings:
            raise UnsupportedOption(
                f"pooling {pooling!r} is not offered by this model; choose one of none, {', '.join(self.poolings)}",
                param="pooling",
            )
        if isinstance(layer, str) and layer not in ("average", "all"):
            raise UnsupportedOption(f"layer {layer!r} is not offered; give an index, 'average' or 'all'", param="layer")
        count = self.num_hidden_states
        if isinstance(layer, int) and count is not None and not -count <= layer < count:
            raise UnsupportedOption(
                f"layer {layer} does not exist: this model has {count} hidden states, -{count} to {count - 1}",
                param="layer",
            )

    @property
    def num_hidden_states(self) -> int | None:
        """How many hidden states there are to choose from (input representation and layers)."""
        layers = getattr(self.config, "num_hidden_layers", None)
        return None if layers is None else layers + 1

    def embedding_dimension(self, pooling: str | None = None, layer: Layer = None) -> int:
        """Return the length of the vectors that ``embed`` gives with these options."""
        width = int(self.config.hidden_size)
        if (self.config.layer if layer is None else layer) == "all":
            width *= self.num_hidden_states or 1
        return 2 * width if (pooling or self.config.pooling) == "mean_std" else width

    def token_states(self, batch: Mapping[str, Tensor], layer: Layer = None) -> tuple[Tensor, Tensor]:
        """Run the encoder and return the chosen hidden state and its mask.

        Args:
            batch: What the processor's ``pad`` returned, on this model's device.
            layer: See `EmbeddingConfig`; ``None`` takes the configuration's.

        Returns:
            ``(batch, tokens, features)`` states and ``(batch, tokens)`` bool mask.
        """
        layer = self.config.layer if layer is None else layer
        if layer == -1:
            output = self(**batch)
            return output.last_hidden_state, output.mask
        output = self(**batch, output_hidden_states=True)
        states = output.hidden_states
        if layer == "all":
            return torch.cat(states, dim=-1), output.mask
        if layer == "average":
            logits = torch.tensor(
                self.config.layer_weights or [0.0] * len(states), device=states[0].device, dtype=torch.float32
            )
            weights = logits.softmax(0).to(states[0].dtype)
            return torch.einsum("l,lbth->bth", weights, torch.stack(states)), output.mask
        return states[layer], output.mask

    @torch.inference_mode()
    def embed(self, batch: Mapping[str, Tensor], pooling: str | None = None, layer: Layer = None) -> list[Tensor]:
        """Embed a batch: one ``(features,)`` vector a sample, or ``(tokens, features)`` for ``pooling="none"``.

        Raises:
            UnsupportedOption: The pooling or layer is not offered.
        """
        pooling = pooling or self.config.pooling
        self.check_options(pooling, layer)
        states, mask = self.token_states(batch, layer)
        states = states.float()
        if pooling == "none":
            return [s[m] for s, m in zip(states, mask, strict=True)]
        return list(self.pool(states, mask, pooling, batch))

    def pool(self, states: Tensor, mask: Tensor, pooling: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Reduce token states to one vector a sample; a model with a pooling of its own extends this.

        Args:
            states: ``(batch, tokens, features)``.
            mask: ``(batch, tokens)`` bool.
            pooling: One of ``poolings``.
            batch: What the states are of, for a pooling that asks where a token lies.
        """
        return POOLINGS[pooling](states, mask)


@dataclass(frozen=True)
class TaskFile:
    """A file as the answer of a task.

    Attributes:
        content: Its bytes.
        media_type: For example ``image/tiff``.
        filename: Suggested name.
    """

    content: bytes
    media_type: str
    filename: str


class PretextModel(PreTrainedModel):  # type: ignore[misc]
    """Model, heads and SSL objective: ``forward(**batch) -> PretextOutput``.

    What only ``update_teacher`` may move has ``requires_grad`` false from the constructor on.
    """

    def start_teacher(self) -> None:
        """Make the teacher equal to the student; the trainer calls it where it goes on from an encoder alone."""

    def update_teacher(self, progress: float) -> None:
        """Move a teacher after an optimiser step; ``progress`` runs from 0 to 1. Without a teacher, nothing."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups: no decay on biases and normalisation weights."""
        decayed: list[Tensor] = []
        plain: list[Tensor] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                no_decay = name.endswith("bias") or "norm" in name.lower()
                (plain if no_decay else decayed).append(parameter)
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
