"""Dynamic curation: every so many steps the model chooses anew what it is trained on (embed, cluster, select).

Kerdreux et al. 2025, "Efficient self-supervised learning for Earth observation via dynamic dataset curation",
section 3: after a warm-up on all samples, a random subset is embedded with the model as it is, a part of it is
selected, and training goes on with that part until the next selection. The learning-rate schedule takes no notice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from hub.curation import Curator
from hub.errors import InvalidInput, InvalidRecipe
from hub.modeling import EmbeddingModel
from hub.processing import Processor
from hub.training.collation import seeded_generator
from hub.training.data import TrainingData
from hub.training.embedding import embed_prepared, in_eval_mode
from hub.training.plan import BatchPlan

WINDOW_COST = 8
"""In units of the processor's ``batch_cost``: how much is held prepared in memory at once."""


@dataclass(frozen=True)
class CurationOptions:
    """The ``curation`` section of a recipe.

    Attributes:
        every: Optimiser steps between two selections; the first so many are trained on all samples.
        subset: Samples drawn at random and embedded for a selection; all when 0.
        select: ``by`` and the options of that strategy; see `hub.curation`.
    """

    every: int
    subset: int
    select: Mapping[str, Any]

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> CurationOptions:
        """Check a recipe's section.

        Raises:
            InvalidRecipe: An option is missing, unknown, or has a value that cannot be.
        """
        every, subset = section.get("every"), section.get("subset", 0)
        for name, value, least in (("every", every, 1), ("subset", subset, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidRecipe(f"curation.{name} is {value!r}; it is a whole number of at least {least}")
        select = {k: v for k, v in section.items() if k not in ("every", "subset")}
        if select.get("by") == "target":
            raise InvalidRecipe("curation.by: target needs a target set, which a run has not; curate the data before")
        Curator(select)
        return cls(int(every or 1), int(subset), select)


class DynamicCuration(TrainerCallback):  # type: ignore[misc]
    """Gives the batch plan a new pool at the beginning of each stretch of a run.

    Every selection is written to the run's folder, so that a resumed run goes on with it and people can look at it.
    """

    def __init__(
        self,
        options: CurationOptions,
        data: TrainingData,
        processor: Processor,
        folder: Path,
        seed: int,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what is chosen from.

        Args:
            options: When and how.
            data: All samples.
            processor: Prepares them for the encoder.
            folder: Where to write the selections.
            seed: Of the run.
            wait: Waits for the other processes; the first one selects for all.
        """
        self.options = options
        self.data = data
        self.processor = processor
        self.folder = folder
        self.seed = seed
        self.wait = wait
        self.plan: BatchPlan | None = None
        # Tried on noise now, because options that do not fit the number of samples would end the run at its first
        # selection, hours later.
        count = min(options.subset or len(data), len(data))
        Curator(options.select).select(np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32), seed=0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Take up the selection of the stretch that begins, or that a resumed run is in."""
        assert self.plan is not None
        part = state.global_step // self.options.every
        if part == 0:
            return
        path = self.folder / f"selection-{part}.json"
        if state.is_world_process_zero and not path.exists():
            chosen = self._select(model.base_model, part)
            self.folder.mkdir(exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps({"step": state.global_step, "samples": chosen}), encoding="utf-8")
            partial.replace(path)
        self.wait()
        self.plan.use(part, json.loads(path.read_text(encoding="utf-8"))["samples"])

    def _select(self, encoder: EmbeddingModel, part: int) -> list[int]:
        count = len(self.data)
        order = torch.randperm(count, generator=seeded_generator(self.seed, 4, part))
        drawn = sorted(order[: self.options.subset or count].tolist())
        with in_eval_mode(encoder):
            rows, vectors = self._embed(encoder, drawn)
        kept = Curator(self.options.select).select(vectors, seed=self.seed + part)
        return sorted(rows[int(row)] for row in kept)

    def _embed(self, encoder: EmbeddingModel, indices: list[int]) -> tuple[list[int], np.ndarray]:
        rows: list[int] = []
        parts: list[np.ndarray] = []
        features: list[Any] = []
        costs: list[int] = []
        held = 0
        for index in indices:
            sample = self.data.sample(index)
            try:
                features.append(self.processor.prepare(sample))
            except InvalidInput:
                continue  # of use to the pretext task, but too short to embed
            rows.append(index)
            costs.append(self.processor.cost(sample))
            held += costs[-1]
            if held > WINDOW_COST * self.processor.batch_cost:
                parts.append(embed_prepared(encoder, self.processor, features, costs).numpy())
                features, costs, held = [], [], 0
        if features:
            parts.append(embed_prepared(encoder, self.processor, features, costs).numpy())
        return rows, np.concatenate(parts)
