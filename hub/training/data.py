"""Training data: a folder of native files or a manifest, indexed once, read at random."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from hub.domain import Domain
from hub.errors import InvalidInput, InvalidManifest
from hub.manifest import read_manifest
from hub.reading import Reader, Sample, Source, Span
from hub.training.collation import Collator, Randomness, seeded_generator


@dataclass(frozen=True)
class Entry:
    """One sample of the training data: where it is, and what it costs.

    Attributes:
        file: Its native file.
        number: Which sample of the file, in reading order.
        cost: As the collator counts it.
        start: Seconds, where only a part of a recording is meant.
        stop: Seconds.
    """

    file: str
    number: int
    cost: int
    start: float | None = None
    stop: float | None = None

    @property
    def span(self) -> Span | None:
        """The part of the recording, if not all of it."""
        return None if self.start is None and self.stop is None else Span(self.start, self.stop)


def _wanted(data: Path, domain: Domain, reader: Reader) -> list[tuple[Path, Span | None, str]]:
    """Return (file, span, item) of what a folder or manifest holds; of a split set, the train part."""
    if data.is_dir():
        return [(f, None, "") for f in reader.find(data, domain.suffixes)]
    rows = read_manifest(data)
    if any(r.split for r in rows):
        rows = [r for r in rows if r.split == "train"]
    return [(r.file, r.span, r.item) for r in rows]


def index_data(
    data: Path,
    domain: Domain,
    reader: Reader,
    collator: Collator,
    on_error: Callable[[InvalidInput], None],
    on_file: Callable[[], None] | None = None,
) -> list[Entry]:
    """Read every file once and note its samples and their costs.

    Args:
        data: A folder of native files, or a manifest (of a split set the train part is taken).
        domain: Whose files to look for in a folder.
        reader: Reads them.
        collator: Says what a sample costs.
        on_error: Called with each file that cannot be read; the rest goes on.
        on_file: Called after each file; for progress.

    Raises:
        InvalidManifest: There is nothing to train on.
    """
    wanted = _wanted(data, domain, reader)

    def index(job: tuple[Path, Span | None, str]) -> tuple[list[Entry], list[InvalidInput]]:
        file, span, item = job
        start, stop = (span.start, span.stop) if span else (None, None)
        found: list[Entry] = []
        errors: list[InvalidInput] = []
        try:
            for number, sample in enumerate(reader.read(Source.from_path(file), span)):
                if item and sample.key != item:
                    continue
                try:
                    cost = collator.cost(sample.checked(str(file)))
                except InvalidInput as error:
                    errors.append(error.at(str(file)))
                    continue
                if cost > 0:
                    found.append(Entry(str(file), number, cost, start, stop))
        except InvalidInput as error:
            errors.append(error.at(str(file)))
        return found, errors

    entries: list[Entry] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for found, errors in pool.map(index, wanted):
            entries += found
            for error in errors:
                on_error(error)
            if on_file is not None:
                on_file()
    if not entries:
        raise InvalidManifest(
            f"{data} holds nothing to train on: of {len(wanted)} files with the suffixes "
            f"{', '.join(domain.suffixes)} none gave a sample that can be read and is long enough"
        )
    return entries


def save_index(entries: Sequence[Entry], path: Path) -> None:
    """Write an index, so that a resumed run sees the same samples in the same order."""
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps([asdict(e) for e in entries]), encoding="utf-8")
    temporary.replace(path)


def load_index(path: Path) -> list[Entry]:
    """Read what `save_index` wrote."""
    return [Entry(**e) for e in json.loads(path.read_text(encoding="utf-8"))]


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


class TrainingData(Dataset[tuple[Pick, Any]]):
    """Views of the indexed samples, each made with a generator of its own."""

    CACHED_FILES = 8  # neighbouring samples of one file (flows, windows, molecules) are read once

    def __init__(self, entries: Sequence[Entry], reader: Reader, collator: Collator, seed: int) -> None:
        """Keep the index and how to read it."""
        self.entries = list(entries)
        self.reader = reader
        self.collator = collator
        self.seed = seed
        self._cache: OrderedDict[tuple[str, float | None, float | None], list[Sample]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.entries)

    def sample(self, index: int) -> Sample:
        """Return one sample as the reader gives it."""
        entry = self.entries[index]
        key = (entry.file, entry.start, entry.stop)
        if key not in self._cache:
            self._cache[key] = list(self.reader.read(Source.from_path(entry.file), entry.span))
            if len(self._cache) > self.CACHED_FILES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key][entry.number]

    def __getitem__(self, pick: Pick) -> tuple[Pick, Any]:
        """Return the pick with its view."""
        generator = seeded_generator(self.seed, 0, pick.visit, pick.index)
        return pick, self.collator.view(self.sample(pick.index), generator)


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
    ) -> None:
        """Plan ``batches`` batches.

        Args:
            costs: Of each sample.
            batches: How many to yield in all.
            batch_size: Most samples in a batch, or 0.
            batch_cost: Most padded cost of a batch, or 0.
            seed: Of the order.
            process: Which process asks.
            processes: How many share each batch.
        """
        self.costs = torch.tensor(costs, dtype=torch.float64)
        self.batches = batches
        self.batch_size = batch_size or len(costs)
        self.batch_cost = batch_cost
        self.seed = seed
        self.process = process
        self.processes = processes

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.batches

    def __iter__(self) -> Iterator[list[Pick]]:
        """Yield this process's part of each batch, pass after pass."""
        number = 0
        visit = 0
        while True:
            for batch in self._one_pass(visit):
                if number == self.batches:
                    return
                # A batch smaller than the number of processes is repeated on some: none may be without work.
                part = batch[self.process :: self.processes] or [batch[self.process % len(batch)]]
                yield [Pick(visit, index, number) for index in part]
                number += 1
            visit += 1

    def _one_pass(self, visit: int) -> list[list[int]]:
        generator = seeded_generator(self.seed, visit)
        # A little noise on the length mixes who meets whom from pass to pass and keeps padding small.
        noise = 1 + 0.1 * torch.rand(len(self.costs), generator=generator, dtype=torch.float64)
        tie = torch.rand(len(self.costs), generator=generator, dtype=torch.float64)
        order = sorted(range(len(self.costs)), key=lambda i: (float(self.costs[i] * noise[i]), float(tie[i])))
        batches: list[list[int]] = [[]]
        longest = 0.0
        for index in order:
            longest = max(longest, float(self.costs[index]))
            size = len(batches[-1]) + 1
            if batches[-1] and (size > self.batch_size or (self.batch_cost and longest * size > self.batch_cost)):
                batches.append([])
                longest = float(self.costs[index])
            batches[-1].append(index)
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
