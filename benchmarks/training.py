"""The Trainer loop beside the same steps as a bare PyTorch loop: on TERA-tiny, and on a task of a millisecond."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from benchmarks.measure import Result, side_by_side
from hub.domain import get_system
from hub.modeling import PretextModel, PretextOutput
from hub.reading import Sample
from hub.training.collation import Collator, Randomness
from hub.training.data import Collation, TrainingData
from hub.training.index import Entry, index_data
from hub.training.plan import BatchPlan
from hub.training.pretrain import build_task
from hub.training.recipe import Recipe, TrainingOptions, load_recipe
from hub.training.schedules import schedule_factor
from hub.training.trainer import PretextTrainer, optimizer_class

TERA_STEPS = 25
SMALL_STEPS = 400


class SmallTask(PretextModel):
    """A perceptron that restores its input; a step takes about a millisecond on one core."""

    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
        self.post_init()

    def forward(self, values: Tensor) -> PretextOutput:
        """Restore ``(batch, 64)`` values."""
        return PretextOutput(nn.functional.mse_loss(self.layers(values), values))


class SmallCollator(Collator):
    """Stacks."""

    def view(self, prepared: Any, generator: torch.Generator) -> Tensor:
        """Return the vector."""
        return prepared

    def collate(self, views: Sequence[Tensor], randomness: Randomness) -> dict[str, Tensor]:
        """Stack the vectors."""
        return {"values": torch.stack(list(views))}


class SmallData(TrainingData):
    """Vectors in memory, so that nothing but the loop is measured."""

    def __init__(self, collator: Collator) -> None:
        super().__init__([Entry("none", i, 1) for i in range(256)], None, collator, 0)  # type: ignore[arg-type]
        self.vectors = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))

    def sample(self, index: int) -> Sample:
        """Return nothing of use: there is no file."""
        return Sample(np.zeros(1))

    def prepared(self, index: int) -> Tensor:
        """Return a vector."""
        return self.vectors[index]


def _bare(task: PretextModel, recipe: Recipe, data: TrainingData) -> None:
    options = recipe.training
    groups = task.parameter_groups(options.weight_decay)
    optimizer = optimizer_class(recipe)(groups, lr=options.learning_rate)
    factor = schedule_factor(options.schedule, options.steps, options.warmup)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    costs = [e.cost for e in data.entries]
    plan = BatchPlan(costs, options.steps, options.batch_size, options.batch_cost, options.seed)
    loader = torch.utils.data.DataLoader(data, batch_sampler=plan, collate_fn=Collation(data.collator, options.seed))
    task.train()
    for batch in loader:
        batch.pop("indices")
        task(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), options.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def run() -> list[Result]:
    """Twenty-five optimiser steps of TERA-tiny, and four hundred of a small task, each way."""
    recipe = load_recipe("tera/tiny").with_training(steps=TERA_STEPS, log_every=5, save_every=1000)
    options = TrainingOptions(steps=SMALL_STEPS, batch_size=32, log_every=50, save_every=1000)
    small = Recipe("small", get_system("tera"), options)
    with tempfile.TemporaryDirectory() as folder:
        task, processor = build_task(recipe)
        files = recipe.system.domain.load("samples")(Path(folder))
        collator = recipe.system.load("collator")(processor, task.config, **recipe.pretext)
        reader = processor.reader()
        entries = index_data(files[0].parent, recipe.system.domain, reader, collator, on_error=print)
        speech = TrainingData(entries, reader, collator, recipe.training.seed)
        vectors = SmallData(SmallCollator(processor, task.config))
        results = []
        for title, chosen, data, make in (
            ("tera/tiny", recipe, speech, lambda: build_task(recipe)[0]),
            ("a small perceptron", small, vectors, lambda: SmallTask(PreTrainedConfig())),
        ):

            def bare(chosen: Recipe = chosen, data: TrainingData = data, make: Any = make) -> None:
                _bare(make(), chosen, data)

            def trainer(chosen: Recipe = chosen, data: TrainingData = data, make: Any = make) -> None:
                PretextTrainer(make(), chosen, data, Path(folder) / "run", []).train()

            contenders = {"bare PyTorch loop": bare, "fmhub pretrain's loop": trainer}
            results.append(side_by_side(f"{chosen.training.steps} steps, {title}", contenders, rounds=7))
        return results
