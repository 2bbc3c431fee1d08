"""The Trainer loop beside the same steps written as a bare PyTorch loop."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.measure import Result, side_by_side
from hub.training.data import Collation, TrainingData
from hub.training.index import index_data
from hub.training.plan import BatchPlan
from hub.training.pretrain import build_task
from hub.training.recipe import Recipe, load_recipe
from hub.training.schedules import schedule_factor
from hub.training.trainer import PretextTrainer, optimizer_class

STEPS = 25


def _data(recipe: Recipe, folder: Path) -> TrainingData:
    task, processor = build_task(recipe)
    files = recipe.system.domain.load("samples")(folder)
    collator = recipe.system.load("collator")(processor, task.config, **recipe.pretext)
    reader = processor.reader()
    entries = index_data(files[0].parent, recipe.system.domain, reader, collator, on_error=print)
    return TrainingData(entries, reader, collator, recipe.training.seed)


def run() -> list[Result]:
    """Twenty-five optimiser steps of the small recipe each way."""
    recipe = load_recipe("tera/tiny").with_training(steps=STEPS, log_every=5, save_every=1000)
    with tempfile.TemporaryDirectory() as folder:
        data = _data(recipe, Path(folder))

        def bare() -> None:
            task, _ = build_task(recipe)
            options = recipe.training
            groups = task.parameter_groups(options.weight_decay)
            optimizer = optimizer_class(recipe)(groups, lr=options.learning_rate)
            factor = schedule_factor(options.schedule, options.steps, options.warmup)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
            costs = [e.cost for e in data.entries]
            plan = BatchPlan(costs, STEPS, options.batch_size, options.batch_cost, options.seed)
            loader = torch.utils.data.DataLoader(
                data, batch_sampler=plan, collate_fn=Collation(data.collator, options.seed)
            )
            task.train()
            for batch in loader:
                batch.pop("indices")
                task(**batch).loss.backward()
                torch.nn.utils.clip_grad_norm_(task.parameters(), options.clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

        def trainer() -> None:
            task, _ = build_task(recipe)
            PretextTrainer(task, recipe, data, Path(folder) / "run", []).train()

        contenders = {"bare PyTorch loop": bare, "fmhub pretrain's loop": trainer}
        return [side_by_side(f"{STEPS} steps of tera/tiny", contenders, rounds=5)]
