"""Pretraining batches of netFound: flows with masked tokens, hidden metadata and swapped bursts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from domains.network.netfound.configuration import NetFoundConfig
from domains.network.netfound.corruption import Corrupted, hide_metadata, mask_tokens, pad_labels, swap_burst
from domains.network.netfound.processing import FlowTokens, NetFoundProcessor
from domains.network.netfound.vocabulary import VOCABULARIES
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Collator, Randomness


class NetFoundCollator(Collator):
    """Flows to corrupted flows and what was taken from them."""

    processor: NetFoundProcessor
    config: NetFoundConfig

    def __init__(
        self,
        processor: NetFoundProcessor,
        config: NetFoundConfig,
        swap_whole_bursts: bool = False,
        metadata_from_bursts: int = 4,
    ) -> None:
        """Set how flows are corrupted; the defaults are those of the published code.

        Args:
            processor: Makes the tokens.
            config: Holds the probabilities.
            swap_whole_bursts: See `domains.network.netfound.corruption.swap_burst`.
            metadata_from_bursts: Metadata are hidden in flows of at least so many bursts.

        Raises:
            InvalidRecipe: The model's sizes do not fit the processor's tokens.
        """
        super().__init__(processor, config)
        self.vocabulary = VOCABULARIES[processor.vocabulary]
        if config.vocab_size < self.vocabulary.size:
            raise InvalidRecipe(
                f"vocab_size={config.vocab_size}: the vocabulary {processor.vocabulary!r} has ids up to "
                f"{self.vocabulary.size - 1}, so at least {self.vocabulary.size} rows are needed"
            )
        for name in ("max_bursts", "max_burst_length"):
            if getattr(processor, name) > getattr(config, name):
                raise InvalidRecipe(
                    f"the processor's {name} is {getattr(processor, name)}, above the model's {getattr(config, name)}"
                )
        self.swap_whole_bursts = swap_whole_bursts
        self.metadata_from_bursts = metadata_from_bursts

    def prepare(self, sample: Sample) -> FlowTokens:
        """Return the tokens of one flow."""
        return self.processor.prepare(sample)

    def view(self, prepared: FlowTokens, generator: torch.Generator) -> FlowTokens:
        """Return the flow: what is random needs the batch."""
        return prepared

    def collate(self, views: Sequence[FlowTokens], randomness: Randomness) -> dict[str, Tensor]:
        """Corrupt and pad the flows of a batch; twice, where the configuration has a ``view_loss_weight``.

        Returns:
            What the processor's ``pad`` gives, and: ``labels`` ``(batch, bursts, tokens)``, the ids to predict, -100
            elsewhere; ``targets`` ``(batch, bursts, 4)``, the metadata as they were; ``hidden`` ``(batch, bursts)``
            bool, which of them were hidden; ``swapped`` ``(batch,)`` int64, whether a burst was swapped.
        """
        corrupted = []
        # Two corruptions of each flow, one after the other, where views of it are compared.
        for _ in range(2 if self.config.view_loss_weight else 1):
            for row, (flow, generator) in enumerate(zip(views, randomness.samples, strict=True)):
                others = [*views[:row], *views[row + 1 :]] or [flow]
                corrupted.append(self._corrupt(flow, others, generator))
        batch = self.processor.pad([one.flow for one in corrupted])
        shape = batch["input_ids"].shape
        targets, hidden = torch.zeros_like(batch["metadata"]), torch.zeros(shape[:2], dtype=torch.bool)
        for row, one in enumerate(corrupted):
            targets[row, : len(one.targets)] = one.targets
            hidden[row, : len(one.hidden)] = one.hidden
        return {
            **batch,
            "labels": pad_labels([one.labels for one in corrupted], shape),
            "targets": targets,
            "hidden": hidden,
            "swapped": torch.tensor([one.swapped is not None for one in corrupted]).long(),
        }

    def _corrupt(self, flow: FlowTokens, others: Sequence[FlowTokens], generator: torch.Generator) -> Corrupted:
        config = self.config
        flow, swapped = swap_burst(flow, others, config.swap_rate, whole=self.swap_whole_bursts, generator=generator)
        targets = flow.metadata
        flow, hidden = hide_metadata(flow, config.metadata_probability, self.metadata_from_bursts, swapped, generator)
        flow, labels = mask_tokens(
            flow, config.mlm_probability, swapped, self.vocabulary.values, self.vocabulary.mask_id, generator
        )
        return Corrupted(flow, labels, targets, hidden, swapped)
