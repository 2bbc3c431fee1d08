"""A pretraining run from end to end: data, task, loop, checkpoint, curve, card."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from transformers import set_seed

from hub.catalog import find_checkpoint
from hub.embedder import load_part
from hub.errors import HubError, InvalidInput, InvalidRecipe
from hub.finetuning.task import SECTION
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.training.continuing import Start, check_constant_phase
from hub.training.data import TrainingData
from hub.training.dynamic_curation import CurationOptions, DynamicCuration
from hub.training.feature_cache import FeatureCache
from hub.training.index import Entry, index_data, load_index, save_index
from hub.training.monitors import CollapseMonitor
from hub.training.progress import Progress, ProgressReport
from hub.training.recipe import Recipe
from hub.training.report import draw_curve, run_summary
from hub.training.self_distillation import Distillation, Distiller
from hub.training.trainer import PretextTrainer, last_checkpoint

INDEX = "data_index.json"
RECIPE = "recipe.yaml"
LOG = "training_log.json"
SELECTIONS = "selections"
TENSORBOARD = "tensorboard"


def build_task(recipe: Recipe, start: Start | None = None) -> tuple[Any, Any]:
    """Return the recipe's pretext task and processor, fresh or from a checkpoint.

    Args:
        recipe: Names the system and overrides its defaults.
        start: Whose weights and processor to go on from.

    Raises:
        InvalidRecipe: A ``model`` or ``processor`` value does not fit the system.
    """
    config_class, processor_class = recipe.system.load("configuration"), recipe.system.load("processor")
    task_class = recipe.system.load("pretraining")
    set_seed(recipe.training.seed)
    if start is not None:
        folder = start.resumable() if start.optimizer else _weights_of(recipe, start)
        task = _loaded(task_class, folder)
        # Pretraining goes on with the encoder alone: a fine-tuned checkpoint's head is not part of the result.
        task.config.__dict__.pop(SECTION, None)
        return task, load_part(processor_class, folder.parent if start.optimizer else folder)
    known = set(config_class().to_dict())
    unknown = sorted(set(recipe.model) - known)
    if unknown:
        raise InvalidRecipe(f"recipe {recipe.name}, model: {config_class.__name__} has no field {unknown[0]!r}")
    try:
        return task_class(config_class(**recipe.model)), processor_class(**recipe.processor)
    except (TypeError, ValueError) as error:
        raise InvalidRecipe(f"recipe {recipe.name}: {error}") from None


def _loaded(task_class: Any, folder: Path) -> Any:
    """Load a pretext task; what an encoder's checkpoint has not (heads, queues, codebooks, teacher) starts as it does.

    transformers fills missing buffers with whatever lies in memory, and makes a teacher trainable, so the saved tensors
    are laid over a task that was constructed as for a run from scratch.
    """
    part = load_part(task_class, folder, dtype=torch.float32)
    task = task_class(part.config)
    saved: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            saved |= set(tensors.keys())
    prefix = f"{task_class.base_model_prefix}."
    present = {name for name in task.state_dict() if name in saved or name.removeprefix(prefix) in saved}
    task.load_state_dict({k: v for k, v in part.state_dict().items() if k in present}, strict=False)
    if any(name not in present for name, parameter in task.named_parameters() if not parameter.requires_grad):
        task.start_teacher()
    return task


def _weights_of(recipe: Recipe, start: Start) -> Path:
    checkpoint = find_checkpoint(start.weights)
    if checkpoint.model_type != recipe.system.model_type:
        raise InvalidRecipe(
            f"{start.weights} is a checkpoint of model_type {checkpoint.model_type!r}; the recipe {recipe.name} is for "
            f"{recipe.system.name}, whose checkpoints have {recipe.system.model_type!r}"
        )
    return checkpoint.folder


@dataclass(frozen=True)
class Sources:
    """Where a run's samples come from.

    Attributes:
        data: Folder of native files or shards, a shard, a manifest (of a split set, the train part), or the name of a
            dataset repository.
        column: Of Parquet shards; found by itself where only one can hold native files.
        cache: Folder in which prepared samples are kept for the next pass and the next run.
    """

    data: str | Path
    column: str = ""
    cache: Path | None = None


def pretrain(
    recipe: Recipe,
    data: str | Path | Sources,
    output: Path,
    *,
    resume: bool = False,
    start: Start | str | Path | None = None,
    distillation: Distillation | None = None,
    license: str = "other",
    on_error: Callable[[InvalidInput], None] = lambda error: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Run a recipe and leave a checkpoint that ``hub.from_pretrained`` loads.

    Args:
        recipe: What and how.
        data: See `Sources`.
        output: Folder of the run; must not hold another run unless ``resume``.
        resume: Go on from the newest checkpoint of ``output``; the recipe must be the same.
        start: Whose weights to start from; a name or folder for the weights alone.
        distillation: Further-pretrained checkpoint whose token states the model is drawn to.
        license: Licence of the weights, for the card.
        on_error: Called with each file that could not be read; the run goes on without it.
        on_progress: Called at each point of the curve, and now and then between.

    Raises:
        InvalidRecipe: The recipe does not fit, or is not that of the run to resume.
        InvalidManifest: There is nothing to train on.
        TrainingDiverged: The loss is not finite.
    """
    started = time.time()
    sources = data if isinstance(data, Sources) else Sources(data)
    start = Start(start) if isinstance(start, str | Path) else start
    options = recipe.training
    main = int(os.environ.get("RANK", "0")) == 0
    if start is not None and options.schedule == "anneal" and start.optimizer:
        check_constant_phase(start.resumable())
    curated = CurationOptions.from_dict(recipe.curation) if recipe.curation else None
    checkpoint = _claim(output, recipe, resume, main=main)
    task, processor = build_task(recipe, start)
    collator = recipe.system.load("collator")(processor, task.config, **recipe.pretext)
    reader = processor.reader()
    if main:
        # There from the beginning, so that another run can go on from any checkpoint of this one.
        processor.save_pretrained(output)
    entries = _index(output / INDEX, sources, recipe, reader, collator, on_error, keep=resume, write=main)
    parts = {"model": dict(recipe.model), "pretext": dict(recipe.pretext)}
    training_data = TrainingData(
        entries,
        reader,
        collator,
        options.seed,
        column=sources.column,
        cache=FeatureCache(sources.cache, collator, processor, parts) if sources.cache else None,
    )
    callbacks: list[Any] = []
    curation = None
    if curated is not None:
        curation = DynamicCuration(curated, training_data, processor, output / SELECTIONS, options.seed)
        callbacks.append(curation)
    resumed_at = int(Path(checkpoint).name.rsplit("-", 1)[1]) if checkpoint else 0
    if main:
        callbacks.append(_tensorboard(output / TENSORBOARD, resumed_at))
    trainer = PretextTrainer(
        task,
        recipe,
        training_data,
        output,
        callbacks,
        monitor=CollapseMonitor(training_data, processor, options.seed) if main else None,
        distiller=_distiller(recipe, distillation, task),
        optimizer_from=start.resumable() if start is not None and start.optimizer else None,
        batches_a_part=curated.every * options.accumulation if curated else 0,
    )
    trainer.add_callback(ProgressReport(on_progress, lambda: trainer.samples_seen))
    if curation is not None:
        curation.plan, curation.wait = trainer.plan, trainer.accelerator.wait_for_everyone
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        history = [point for point in trainer.state.log_history if "loss" in point]
        save_checkpoint(output, task, processor)
        (output / LOG).write_text(json.dumps(history, indent=1), encoding="utf-8")
        draw_curve(history, output / "training_curve.png", title=f"{recipe.system.title}: {recipe.name}")
        seconds = time.time() - started
        _write_card(output, recipe, task, sources.data, entries, history, seconds, license, resumed_at)
    trainer.accelerator.wait_for_everyone()
    return output


def _tensorboard(folder: Path, resumed_at: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    # What a killed run wrote after its last checkpoint is written again.
    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=resumed_at + 1))


def _distiller(recipe: Recipe, distillation: Distillation | None, student: Any) -> Distiller | None:
    if distillation is None:
        return None
    teacher, _ = build_task(recipe, Start(distillation.teacher))
    distiller = Distiller(teacher, distillation.weight)
    distiller.check_fits(student)
    return distiller


def check_output(output: Path, recipe: Recipe, resume: bool) -> None:
    """Raise InvalidRecipe when a folder holds a run that this one must not touch, or cannot go on with."""
    path = output / RECIPE
    if not path.exists():
        return
    if not resume:
        raise InvalidRecipe(f"{output} holds a run already; give --resume to go on with it, or another folder")
    if path.read_text(encoding="utf-8") != _as_yaml(recipe):
        raise InvalidRecipe(f"{path} is not this recipe; a resumed run keeps the recipe it was started with")


def _as_yaml(recipe: Recipe) -> str:
    return yaml.safe_dump(recipe.to_dict(), sort_keys=False)


def _claim(output: Path, recipe: Recipe, resume: bool, *, main: bool) -> str | None:
    """Make the run's folder and note its recipe; return the checkpoint to resume from."""
    # Of several processes only the first looks and writes: the others would find what it has just written.
    if main:
        check_output(output, recipe, resume)
        output.mkdir(parents=True, exist_ok=True)
        (output / RECIPE).write_text(_as_yaml(recipe), encoding="utf-8")
    return last_checkpoint(output) if resume else None


def _index(
    path: Path,
    sources: Sources,
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
    entries = index_data(sources.data, recipe.system.domain, reader, collator, on_error, column=sources.column)
    if write:
        save_index(entries, path)
    return entries


def _write_card(
    output: Path,
    recipe: Recipe,
    task: Any,
    data: str | Path,
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
        datasets=[Path(data).stem],
        parameters=parameters,
        recipe=recipe.name,
    )
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    text = run_summary(output.name, recipe, parameters, len(entries), history, seconds, machine, resumed_at)
    write_card(output, metadata, text)
