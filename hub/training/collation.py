"""The contract between a pretext task and the trainer: what is random, and from which generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from hub.processing import Processor
from hub.reading import Sample


@dataclass(frozen=True)
class Randomness:
    """Where the randomness of one batch comes from.

    Attributes:
        samples: One generator for each view, in their order.
        shared: For what is drawn once a batch; the same on all processes that hold a part of it.
    """

    samples: Sequence[torch.Generator]
    shared: torch.Generator

    @classmethod
    def seeded(cls, count: int, seed: int = 0) -> Randomness:
        """Return the randomness of a batch of ``count`` views outside a training run."""
        return cls([seeded_generator(seed, 1, row) for row in range(count)], seeded_generator(seed, 2))


class Collator(ABC):
    """Samples to a pretraining batch: crops, views and masks.

    Everything random comes from the generators that each method is given. The trainer seeds them from the recipe's
    seed, the pass over the data, and the sample's (or batch's) number, so that a step can be repeated, and is the
    same whatever the number of readers or processes.
    """

    def __init__(self, processor: Processor, config: PreTrainedConfig) -> None:
        """Keep the processor and the model's configuration.

        A subclass takes further keyword arguments: the recipe's ``pretext`` section.
        """
        self.processor = processor
        self.config = config

    def cost(self, sample: Sample) -> int:
        """Return the cost of one sample as the trainer will batch it (crops make it smaller).

        0 leaves the sample out: it is too short, or otherwise of no use to the pretext task.
        """
        return self.processor.cost(sample)

    def prepare(self, sample: Sample) -> Any:
        """Do what is the same for every view of a sample; the sample itself, unless a system overrides it.

        A system whose reading or features are dear does them here and returns tensors (or lists and dictionaries of
        them): these can be kept on disk between passes and runs (`hub.training.feature_cache`).
        """
        return sample

    @abstractmethod
    def view(self, prepared: Any, generator: torch.Generator) -> Any:
        """Turn what ``prepare`` returned to what ``collate`` takes; runs in a worker."""

    @abstractmethod
    def collate(self, views: Sequence[Any], randomness: Randomness) -> dict[str, torch.Tensor]:
        """Pad and mask the views of one batch to what the pretext task's ``forward`` takes.

        Several processes each collate their part of a batch, so a sample's masks come from its own generator.
        """


def seeded_generator(*numbers: int) -> torch.Generator:
    """Return a CPU generator whose state depends on all the numbers, for example (seed, pass, index)."""
    seed = 0x9E3779B97F4A7C15
    for number in numbers:
        # splitmix64: neighbouring tuples must not give correlated streams.
        seed = (seed ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        seed ^= seed >> 31
        seed = seed * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        seed ^= seed >> 29
    return torch.Generator().manual_seed(seed >> 1)
