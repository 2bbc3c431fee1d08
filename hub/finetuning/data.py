"""Labelled samples: read and prepared once where they fit in memory, or a frozen encoder's states of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hub.batching import batches_by_cost
from hub.errors import InvalidInput, InvalidManifest
from hub.finetuning.model import TaskModel
from hub.finetuning.options import Augment
from hub.manifest import Row
from hub.processing import Processor
from hub.reading import Reader, Sample, Source
from hub.training.collation import seeded_generator
from hub.training.plan import Pick

CACHE_BYTES = 1 << 30
"""Prepared features kept in memory; what does not fit is read and prepared again on each visit."""


class Views(Protocol):
    """What the loop trains on: features of each row, and how they become a batch."""

    @property
    def costs(self) -> Mapping[int, int]:
        """Row number to cost; rows that could not be used are absent."""

    def view(self, row: int, generator: torch.Generator | None = None) -> Any:
        """Return a row's features; with a generator, changed as training wants them."""

    def pad(self, features: Sequence[Any]) -> dict[str, Tensor]:
        """Return features as a batch."""


class LabelledSamples:
    """The rows of a manifest as samples, prepared for a model."""

    def __init__(
        self,
        rows: Sequence[Row],
        processor: Processor,
        on_error: Callable[[InvalidInput], None] = lambda error: None,
        augment: Augment | None = None,
    ) -> None:
        """Read every row once.

        Args:
            rows: Of a manifest.
            processor: Prepares the samples.
            on_error: Called with each sample that cannot be used; the rest goes on.
            augment: Changes a sample, from a generator, each time it is seen in training.

        Raises:
            InvalidManifest: A row does not name exactly one sample, or none can be used.
        """
        self.rows = rows
        self.processor = processor
        self.augment = augment
        self.reader: Reader = processor.reader()
        self.costs: dict[int, int] = {}
        self._last: tuple[Any, list[Sample]] = (None, [])
        self._kept: dict[int, Any] = {}
        self._room = CACHE_BYTES
        for number, row in enumerate(rows):
            try:
                sample = self._read(number)
                features = processor.prepare(sample)
            except InvalidInput as error:
                on_error(error.at(str(row.file)))
                continue
            self.costs[number] = processor.cost(sample)
            kept = features if augment is None else sample
            size = _size_of(kept)
            if size is not None and size <= self._room:
                self._room -= size
                self._kept[number] = kept
        if not self.costs:
            raise InvalidManifest(f"none of the {len(rows)} rows names a sample that can be used")

    def view(self, row: int, generator: torch.Generator | None = None) -> Any:
        """Return a row's prepared features; augmented when a generator is given and the domain augments."""
        if self.augment is None:
            return self._kept[row] if row in self._kept else self.processor.prepare(self._read(row))
        sample = self._kept[row] if row in self._kept else self._read(row)
        return self.processor.prepare(sample if generator is None else self.augment(sample, generator))

    def pad(self, features: Sequence[Any]) -> dict[str, Tensor]:
        """Return the processor's batch."""
        return self.processor.pad(features)

    def _read(self, number: int) -> Sample:
        row = self.rows[number]
        key = (row.file, row.span)
        if self._last[0] != key:
            # Rows of one file come together in every manifest worth reading, so one file is kept.
            self._last = (key, list(self.reader.read(Source.from_path(row.file), row.span)))
        found = [sample for sample in self._last[1] if not row.item or sample.key == row.item]
        if len(found) != 1:
            raise InvalidManifest(
                f"row {number + 1}: item {row.item!r} names {len(found)} of the {len(self._last[1])} samples "
                f"of {row.file}; a row names one with `item`, or a stretch with `start`"
            )
        return found[0].checked(str(row.file))


class FrozenStates:
    """What a frozen encoder gives for each row, computed once: the head trains on nothing else."""

    def __init__(self, samples: LabelledSamples, model: TaskModel, rows: Sequence[int]) -> None:
        """Run the encoder on some rows.

        Args:
            samples: Labelled samples.
            model: Encoder with head, in eval mode.
            rows: Which of them.
        """
        self.per_token = model.spec.per_token
        self.states: dict[int, Tensor] = {}
        for batch_rows, batch in padded_batches(samples, rows, samples.processor.batch_cost, model.device):
            with torch.inference_mode():
                features, mask = model.represent(batch)
            for row, states, real in zip(batch_rows, features.cpu(), mask.cpu(), strict=True):
                # A clone leaves inference mode, which a loss could not go back through.
                self.states[row] = (states[real] if self.per_token else states).clone()
        self.costs = {row: len(states) if self.per_token else 1 for row, states in self.states.items()}

    def view(self, row: int, generator: torch.Generator | None = None) -> Tensor:
        """Return a row's states, ``(features,)`` or ``(tokens, features)``."""
        return self.states[row]

    def pad(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return ``states`` padded to the longest and their ``mask`` (of one token a sample for vectors)."""
        if not self.per_token:
            return {"states": torch.stack(list(features)), "mask": torch.ones(len(features), 1, dtype=torch.bool)}
        lengths = torch.tensor([len(f) for f in features])
        padded = torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True)
        return {"states": padded, "mask": torch.arange(padded.shape[1]) < lengths[:, None]}


class TrainingRows(Dataset[tuple[int, Any]]):
    """Views of the training part, each with a generator of its own."""

    def __init__(self, views: Views, rows: Sequence[int], seed: int) -> None:
        """Keep which rows to show.

        Args:
            views: Where features come from.
            rows: Row numbers of the part.
            seed: Of what is random in a view.
        """
        self.views = views
        self.rows = list(rows)
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, pick: Pick) -> tuple[int, Any]:
        """Return ``(row, features)``."""
        row = self.rows[pick.index]
        return row, self.views.view(row, seeded_generator(self.seed, pick.visit, row))

    def collate(self, items: Sequence[tuple[int, Any]]) -> dict[str, Tensor]:
        """Return a batch, with the row numbers under ``rows``: by them the loss finds the targets."""
        return {**self.views.pad([features for _, features in items]), "rows": torch.tensor([row for row, _ in items])}


def padded_batches(views: Views, rows: Sequence[int], budget: int, device: torch.device) -> Any:
    """Yield ``(row numbers, batch)`` of some rows, by cost, on a device; nothing is augmented."""
    for indices in batches_by_cost([views.costs[row] for row in rows], budget):
        chosen = [rows[i] for i in indices]
        batch = views.pad([views.view(row) for row in chosen])
        yield chosen, {name: value.to(device) for name, value in batch.items()}


def _size_of(value: Any) -> int | None:
    """Return the bytes of the arrays in a value, or ``None`` where that cannot be told."""
    if isinstance(value, Tensor | np.ndarray):
        return int(value.nbytes)
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return 64
    if dataclasses.is_dataclass(value):
        value = vars(value) if hasattr(value, "__dict__") else None
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return None
    sizes = [_size_of(part) for part in value]
    return None if None in sizes else sum(size or 0 for size in sizes)
