"""Training data: the indexed samples, read at random and turned to views and batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from hub.reading import Reader, Sample, Source
from hub.training.collation import Collator, Randomness, seeded_generator
from hub.training.feature_cache import FeatureCache
from hub.training.index import Entry
from hub.training.plan import Pick
from hub.training.shards import ShardReader


class TrainingData(Dataset[tuple[Pick, Any]]):
    """Views of the indexed samples, each made with a generator of its own."""

    CACHED_FILES = 8  # neighbouring samples of one file (flows, windows, molecules) are read once

    def __init__(
        self,
        entries: Sequence[Entry],
        reader: Reader,
        collator: Collator,
        seed: int,
        *,
        column: str = "",
        cache: FeatureCache | None = None,
    ) -> None:
        """Keep the index and how to read it.

        Args:
            entries: The index.
            reader: Of the native files.
            collator: Makes the views.
            seed: Of the recipe.
            column: Of Parquet shards.
            cache: Where prepared samples are kept on disk, if anywhere.
        """
        self.entries = list(entries)
        self.reader = reader
        self.collator = collator
        self.seed = seed
        self.cache = cache
        self._shards = ShardReader(reader, column)
        self._read: OrderedDict[tuple[Any, ...], list[Sample]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.entries)

    @property
    def blocks(self) -> list[int] | None:
        """Of each sample the number of the block of a shard it lies in; ``None`` when there are no shards."""
        if all(e.block is None for e in self.entries):
            return None
        numbers: dict[tuple[str, int | None], int] = {}
        return [numbers.setdefault((e.file, e.block), len(numbers)) for e in self.entries]

    def sample(self, index: int) -> Sample:
        """Return one sample as the reader gives it."""
        entry = self.entries[index]
        key = (entry.file, entry.start, entry.stop, entry.place)
        if key not in self._read:
            if entry.place:
                samples = self._shards.samples(Path(entry.file), entry.place, entry.name)
            else:
                samples = self.reader.read(Source.from_path(entry.file), entry.span)
            self._read[key] = list(samples)
            if len(self._read) > self.CACHED_FILES:
                self._read.popitem(last=False)
        self._read.move_to_end(key)
        return self._read[key][entry.number]

    def prepared(self, index: int) -> Any:
        """Return what the collator's ``prepare`` makes of one sample, from the cache where it is there."""
        if self.cache is None:
            return self.collator.prepare(self.sample(index))
        return self.cache.get(self.entries[index], lambda: self.collator.prepare(self.sample(index)))

    def __getitem__(self, pick: Pick) -> tuple[Pick, Any]:
        """Return the pick with its view."""
        generator = seeded_generator(self.seed, 0, pick.visit, pick.index)
        return pick, self.collator.view(self.prepared(pick.index), generator)


class Collation:
    """The data loader's collate function: views of one batch to tensors, seeded sample by sample."""

    def __init__(self, collator: Collator, seed: int) -> None:
        """Keep the collator and the recipe's seed."""
        self.collator = collator
        self.seed = seed

    def __call__(self, items: Sequence[tuple[Pick, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch, with the samples' numbers under ``indices`` for messages about it."""
        picks = [pick for pick, _ in items]
        randomness = Randomness(
            [seeded_generator(self.seed, 1, pick.visit, pick.index) for pick in picks],
            seeded_generator(self.seed, 2, picks[0].batch),
        )
        batch = self.collator.collate([view for _, view in items], randomness)
        return {**batch, "indices": torch.tensor([pick.index for pick in picks])}
