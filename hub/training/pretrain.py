"""A pretraining run from end to end: data, task, loop, checkpoint, curve, card."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback, set_seed

from hub.catalog import find_checkpoint
from hub.embedder import load_part
from hub.errors import HubError, InvalidInput, InvalidRecipe
from hub.finetuning.task import SECTION
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.training.data import Entry, TrainingData, index_data, load_index, save_index
from hub.training.recipe import Recipe
from hub.training.report import draw_curve, run_summary
from hub.training.trainer import PretextTrainer, last_checkpoint

INDEX = "data_index.json"
RECIPE = "recipe.yaml"
LOG = "training_log.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for a live line: step of steps, newest logged values, samples seen a second."""

    step: int
    steps: int
    values: Mapping[str, float]


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self.tell = tell

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self.tell(Progress(state.global_step, state.max_steps, logs))


def build_task(recipe: Recipe, start_from: str | Path | None = None) -> tuple[Any, Any]:
    """Return the recipe's pretext task and processor, fresh or from a checkpoint.

    Args:
        recipe: Names the system and overrides its defaults.
        start_from: Checkpoint whose weights and processor to go on from.

    Raises:
        InvalidRecipe: A ``model`` or ``processor`` value does not fit the system.
    """
    config_class, processor_class = recipe.system.load("configuration"), recipe.system.load("processor")
    task_class = recipe.system.load("pretraining")
    set_seed(recipe.training.seed)
    if start_from is not None:
        folder = find_checkpoint(start_from).folder
        task = load_part(task_class, folder, dtype=torch.float32)
        # Pretraining goes on with the encoder alone: a fine-tuned checkpoint's head is not part of the result.
        task.config.__dict__.pop(SECTION, None)
        return task, load_part(processor_class, folder)
    known = set(config_class().to_dict())
    unknown = sorted(set(recipe.model) - known)
    if unknown:
        raise InvalidRecipe(f"recipe {recipe.name}, model: {config_class.__name__} has no field {unknown[0]!r}")
    try:
        return task_class(config_class(**recipe.model)), processor_class(**recipe.processor)
    except (TypeError, ValueError) as error:
        raise InvalidRecipe(f"recipe {recipe.name}: {error}") from None


def pretrain(
    recipe: Recipe,
    data: Path,
    output: Path,
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
    license: str = "other",
    on_error: Callable[[InvalidInput], None] = lambda error: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Run a recipe and leave a checkpoint that ``hub.from_pretrained`` loads.

    Args:
        recipe: What and how.
        data: Folder of native files, or a manifest (of a split set, the train part).
        output: Folder of the run; must not hold another run unless ``resume``.
        resume: Go on from the newest checkpoint of ``output``; the recipe must be the same.
        start_from: Built-in name, folder or repository whose weights to start from.
        license: Licence of the weights, for the card.
        on_error: Called with each file that could not be read; the run goes on without it.
        on_progress: Called at each point of the curve.

    Raises:
        InvalidRecipe: The recipe does not fit, or is not that of the run to resume.
        InvalidManifest: There is nothing to train on.
        TrainingDiverged: The loss is not finite.
    """
    started = time.time()
    main = int(os.environ.get("RANK", "0")) == 0
    checkpoint = _claim(output, recipe, resume, main=main)
    task, processor = build_task(recipe, start_from)
    collator = recipe.system.load("collator")(processor, task.config, **recipe.pretext)
    reader = processor.reader()
    entries = _index(output / INDEX, data, recipe, reader, collator, on_error, keep=resume, write=main)
    training_data = TrainingData(entries, reader, collator, recipe.training.seed)
    trainer = PretextTrainer(task, recipe, training_data, output, [_Report(on_progress)])
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        history = [point for point in trainer.state.log_history if "loss" in point]
        save_checkpoint(output, task, processor)
        (output / LOG).write_text(json.dumps(history, indent=1), encoding="utf-8")
        draw_curve(history, output / "training_curve.png", title=f"{recipe.system.title}: {recipe.name}")
        resumed_at = int(Path(checkpoint).name.rsplit("-", 1)[1]) if checkpoint else 0
        _write_card(output, recipe, task, data, entries, history, time.time() - started, license, resumed_at)
    trainer.accelerator.wait_for_everyone()
    return output


def _claim(output: Path, recipe: Recipe, resume: bool, *, main: bool) -> str | None:
    """Make the run's folder and note its recipe; return the checkpoint to resume from."""
    path = output / RECIPE
    wanted = yaml.safe_dump(recipe.to_dict(), sort_keys=False)
    # Of several processes only the first looks and writes: the others would find what it has just written.
    if main and path.exists():
        if not resume:
            raise InvalidRecipe(f"{output} holds a run already; give --resume to go on with it, or another folder")
        if path.read_text(encoding="utf-8") != wanted:
            raise InvalidRecipe(f"{path} is not this recipe; a resumed run keeps the recipe it was started with")
    elif main:
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted, encoding="utf-8")
    return last_checkpoint(output) if resume else None


def _index(
    path: Path,
    data: Path,
    recipe: Recipe,
    reader: Any,
    collator: Any,
    on_error: Callable[[InvalidInput], None],
    *,
    keep: bool,
    write: bool,
) -> list[Entry]:
    if keep and path.exists():
        return load_index(path)
    entries = index_data(data, recipe.system.domain, reader, collator, on_error)
    if write:
        save_index(entries, path)
    return entries


def _write_card(
    output: Path,
    recipe: Recipe,
    task: Any,
    data: Path,
    entries: list[Entry],
    history: list[dict[str, float]],
    seconds: float,
    license: str,
    resumed_at: int,
) -> None:
    if not history:
        raise HubError("the run ended without a single point of its curve")
    parameters = task.num_parameters()
    metadata = card_metadata(
        recipe.system,
        license=license,
        name=output.name,
        datasets=[data.stem],
        parameters=parameters,
        recipe=recipe.name,
    )
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    text = run_summary(output.name, recipe, parameters, len(entries), history, seconds, machine, resumed_at)
    write_card(output, metadata, text)
