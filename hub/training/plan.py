"""The order of a run: which samples meet in which batch, pass after pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from hub.training.collation import seeded_generator


@dataclass(frozen=True)
class Pick:
    """One sample of one batch.

    Attributes:
        visit: How often the sample has been seen before.
        index: Which sample it is.
        batch: Number of the batch in the run, shared by all processes that hold a part of it.
    """

    visit: int
    index: int
    batch: int


VISITS_A_PART = 1 << 20
"""Passes of one stretch of a run are numbered apart from those of the next, so that no view repeats."""

BLOCKS_AT_ONCE = 4
"""Blocks of shards that are shuffled together: fewer mix less, more are read again and again."""


class BatchPlan:
    """Batches for a whole run: each pass over the data shuffled, similar costs together.

    Deterministic in (costs, seed), so skipping the first batches is all that resuming needs. Several processes follow
    the same plan and take every n-th sample of each batch, so a recipe's batch is the same however many there are.
    """

    def __init__(
        self,
        costs: Sequence[int],
        batches: int,
        batch_size: int,
        batch_cost: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Plan ``batches`` batches.

        Args:
            costs: Of each sample.
            batches: How many to yield in all, or between two changes of the pool.
            batch_size: Most samples in a batch, or 0.
            batch_cost: Most padded cost of a batch, or 0.
            seed: Of the order.
            process: Which process asks.
            processes: How many share each batch.
            blocks: Of each sample the number of the block of a shard it lies in. Only samples of a few blocks meet, so
                that a block is read once a pass; ``None`` when all samples can be read at random.
        """
        self.costs = torch.tensor(costs, dtype=torch.float64)
        self.batches = batches
        self.batch_size = batch_size or len(costs)
        self.batch_cost = batch_cost
        self.seed = seed
        self.process = process
        self.processes = processes
        self.blocks = None if blocks is None else torch.tensor(blocks)
        self._part = 0
        self._pool = torch.arange(len(costs))

    def use(self, part: int, pool: Sequence[int]) -> None:
        """Take the next ``batches`` batches from a part of the data alone (dynamic curation).

        Args:
            part: Number of this stretch of the run, from 0: it seeds the order and numbers the batches.
            pool: Indices of the samples to use.
        """
        self._part = part
        self._pool = torch.tensor(sorted(pool))

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.batches

    def __iter__(self) -> Iterator[list[Pick]]:
        """Yield this process's part of each batch, pass after pass."""
        number = 0
        visit = self._part * VISITS_A_PART
        while True:
            for batch in self._one_pass(visit):
                if number == self.batches:
                    return
                # A batch smaller than the number of processes is repeated on some: none may be without work.
                part = batch[self.process :: self.processes] or [batch[self.process % len(batch)]]
                yield [Pick(visit, index, self._part * self.batches + number) for index in part]
                number += 1
            visit += 1

    def _one_pass(self, visit: int) -> list[list[int]]:
        generator = seeded_generator(self.seed, visit)
        batches: list[list[int]] = []
        for window in self._windows(generator):
            cut = self._cut(window, generator)
            batches += [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]
        return batches

    def _windows(self, generator: torch.Generator) -> list[torch.Tensor]:
        """Return the samples that may meet: all, or those of a few blocks, in a random order of the blocks."""
        if self.blocks is None:
            return [self._pool]
        own = self.blocks[self._pool]
        present = own.unique()
        order = present[torch.randperm(len(present), generator=generator)]
        return [self._pool[torch.isin(own, some)] for some in order.split(BLOCKS_AT_ONCE)]

    def _cut(self, window: torch.Tensor, generator: torch.Generator) -> list[list[int]]:
        """Sort samples by cost and cut them to batches."""
        # A little noise on the length mixes who meets whom from pass to pass and keeps padding small.
        costs = self.costs[window]
        noise = 1 + 0.1 * torch.rand(len(window), generator=generator, dtype=torch.float64)
        tie = torch.rand(len(window), generator=generator, dtype=torch.float64)
        order = sorted(range(len(window)), key=lambda i: (float(costs[i] * noise[i]), float(tie[i])))
        batches: list[list[int]] = [[]]
        longest = 0.0
        for place in order:
            longest = max(longest, float(costs[place]))
            size = len(batches[-1]) + 1
            if batches[-1] and (size > self.batch_size or (self.batch_cost and longest * size > self.batch_cost)):
                batches.append([])
                longest = float(costs[place])
            batches[-1].append(int(window[place]))
        return batches
