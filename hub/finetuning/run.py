"""A fine-tuning run from end to end: encoder and head, parts, loop, checkpoint, card."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from hub.cards import Card
from hub.catalog import find_checkpoint
from hub.domain import Domain, System, system_of
from hub.embedder import load_part
from hub.errors import InvalidInput, InvalidManifest, UnsupportedOption
from hub.finetuning.data import FrozenStates, LabelledSamples, TrainingRows
from hub.finetuning.losses import TaskLoss
from hub.finetuning.model import TaskModel, task_model_class
from hub.finetuning.modes import merge, prepare
from hub.finetuning.options import FinetuneOptions, Preset
from hub.finetuning.report import write_report
from hub.finetuning.splitting import Parts, split
from hub.finetuning.targets import Targets
from hub.finetuning.task import NUMBER_TASKS, SECTION, TOKEN_TASKS, HeadSpec
from hub.finetuning.trainer import FinetuneTrainer, HeadAlone, OnEpoch, WholeModel, judge
from hub.manifest import Row, read_manifest
from hub.processing import Processor
from hub.publishing import save_checkpoint

STATISTICS_ROWS = 1024
"""Rows of the training part from which the head's feature statistics are taken."""


@dataclass(frozen=True)
class Start:
    """A checkpoint to start from: found and read, but for its weights."""

    name: str
    folder: Path
    card: Card
    system: System
    processor: Processor

    @classmethod
    def find(cls, name: str | Path) -> Start:
        """Find a checkpoint by built-in name, folder or repository; a fine-tuned one gives its encoder.

        Raises:
            UnknownModel: Nothing answers to this name.
            InvalidCheckpoint: Its files are damaged.
        """
        checkpoint = find_checkpoint(name)
        system = system_of(checkpoint.model_type)
        processor = load_part(system.load("processor"), checkpoint.folder)
        return cls(checkpoint.name, checkpoint.folder, checkpoint.card, system, processor)

    def build(self, options: FinetuneOptions, labels: Sequence[str], fresh: bool) -> TaskModel:
        """Return the encoder with a new head.

        Args:
            options: Of the run.
            labels: Names of the head's outputs.
            fresh: Initialise the encoder anew instead of reading its weights.

        Raises:
            UnsupportedOption: The encoder does not offer the pooling or layer.
        """
        base = self.system.load("model")
        if fresh:
            config = self.system.load("configuration").from_pretrained(self.folder)
            encoder = base(config)
        else:
            encoder = load_part(base, self.folder, dtype=torch.float32)
            config = encoder.config
        per_token = options.task in TOKEN_TASKS
        pooling = options.pooling or ("none" if per_token else config.pooling)
        if per_token != (pooling == "none"):
            kind = "an output a token, so nothing is pooled" if per_token else "an output a sample, so pool its tokens"
            raise UnsupportedOption(f"pooling {pooling!r}: {options.task} has {kind}", param="pooling")
        layer = config.layer if options.layer is None else options.layer
        encoder.check_options(pooling, layer)
        spec = HeadSpec(options.task, tuple(labels), pooling, layer, options.hidden, options.dropout)
        setattr(config, SECTION, spec.to_dict())
        model: Any = task_model_class(base)(config)
        model.load_state_dict(encoder.state_dict(), strict=False)  # all but the head
        return model.cuda() if torch.cuda.is_available() else model


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        model: Encoder and head of the best pass, adapters merged, in eval mode.
        rows: How many rows of each part were used.
        valid: Loss and metrics of the best pass on the validation part; empty without one.
        test: The same on the test part.
        epochs: Passes run, and the one that was kept.
        trainable: Parameters that learnt.
        seconds: It took.
        history: Points of the curve, with the validation's between them.
    """

    model: TaskModel = field(repr=False)
    rows: dict[str, int]
    valid: dict[str, float]
    test: dict[str, float]
    epochs: tuple[int, int]
    trainable: int
    seconds: float
    history: list[dict[str, float]] = field(repr=False)


def labelled_rows(manifest: Path, preset: Preset, need: Sequence[str], leaky: bool = False) -> list[Row]:
    """Return the rows of a labelled set as its domain wants them.

    Raises:
        InvalidManifest: It cannot be read, or its split leaks.
    """
    rows = read_manifest(manifest, need=need, leaky=leaky)
    return rows if preset.rows is None else preset.rows(rows, leaky)


def preset_of(domain: Domain) -> Preset:
    """Return what a domain declares about fine-tuning, or an empty preset."""
    return domain.load("finetune")() if "finetune" in domain.references else Preset()


def fit(
    start: Start,
    samples: LabelledSamples,
    targets: Targets,
    parts: Parts,
    options: FinetuneOptions,
    output: Path,
    *,
    fresh: bool = False,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
) -> Outcome:
    """Train a head, and as the mode says its encoder, on one split.

    Args:
        start: Checkpoint to start from.
        samples: The labelled set, read.
        targets: Its labels.
        parts: Its split.
        options: How.
        output: Folder that the Trainer may write to; it is left without checkpoints.
        fresh: Initialise the encoder anew.
        on_epoch: Told each pass's number and validation metrics.

    Raises:
        UnsupportedOption: The encoder does not offer an option.
        InvalidManifest: No row of the training part can be used.
        TrainingDiverged: The loss is not finite.
    """
    started = time.monotonic()
    set_seed(options.seed)
    model = start.build(options, targets.labels, fresh).eval()
    usable = {name: [row for row in rows if row in samples.costs] for name, rows in parts.items()}
    if not usable["train"]:
        raise InvalidManifest("no row of the train part names a sample that can be used")
    frozen = options.mode == "frozen"
    states = FrozenStates(samples, model, usable["train"] if frozen else _some(usable["train"], options.seed))
    _standardise(model, states, frozen)
    loss = _loss(model, targets, usable["train"], options)
    prepare(model, options)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    views: Any = samples
    if frozen:
        valid_states = FrozenStates(samples, model, usable["valid"])
        states.states |= valid_states.states
        states.costs |= valid_states.costs
        views = states
    called = HeadAlone(model.task_head) if frozen else WholeModel(model)
    budget = options.batch_cost or start.processor.batch_cost
    trainer = FinetuneTrainer(
        model,
        called,
        start.system,
        options,
        TrainingRows(views, usable["train"], options.seed),
        usable["valid"],
        targets,
        loss,
        budget,
        output,
        on_epoch,
    )
    trainer.train()
    trainer.keeper.restore()
    merge(model)
    model.eval().requires_grad_(True)
    whole = WholeModel(model)
    measured = {
        name: judge(whole, model.task_head, samples, rows, targets, loss, budget) if rows else {}
        for name, rows in usable.items()
        if name != "train"
    }
    epochs = trainer.state.global_step * options.epochs // trainer.steps
    return Outcome(
        model,
        {name: len(rows) for name, rows in usable.items()},
        measured["valid"],
        measured["test"],
        (epochs, trainer.keeper.best_pass or epochs),
        trainable,
        time.monotonic() - started,
        [p for p in trainer.state.log_history if "loss" in p or "eval_loss" in p],
    )


def finetune(
    model: str | Path,
    manifest: Path,
    output: Path,
    options: FinetuneOptions | Mapping[str, Any],
    *,
    fresh: bool = False,
    license: str | None = None,
    on_error: Callable[[InvalidInput], None] = lambda error: None,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
) -> Outcome:
    """Fine-tune a checkpoint on a manifest and write one that ``hub.from_pretrained`` loads with its task.

    Args:
        model: Built-in name, folder or repository.
        manifest: Labelled set, see `hub.finetuning.targets` for its label column.
        output: Folder to write; must not exist or be empty.
        options: How; or the arguments of `FinetuneOptions.for_mode`, to which the domain's preset is then added.
        fresh: Initialise the encoder anew: training from scratch.
        license: Of the result; that of the model started from unless given.
        on_error: Called with each sample that cannot be used; the run goes on without it.
        on_epoch: Told each pass's number and validation metrics.

    Raises:
        InvalidManifest: The set cannot be read or split, or has a group on two sides.
        UnsupportedOption: An option cannot be.
        TrainingDiverged: The loss is not finite.
    """
    if output.exists() and any(output.iterdir()):
        raise UnsupportedOption(f"{output} is not empty; give a new folder", param="output_dir")
    start = Start.find(model)
    preset = preset_of(start.system.domain)
    if not isinstance(options, FinetuneOptions):
        options = FinetuneOptions.for_mode(preset=preset, **options)
    if options.augment and preset.augment is None:
        raise UnsupportedOption(f"domain {start.system.domain.name!r} has no augmentation", param="augment")
    rows = labelled_rows(manifest, preset, ("file", "label"), options.leaky_split)
    targets = Targets.from_rows(rows, options.task, options.labels)
    parts = split(rows, targets, options.valid_share, options.test_share, options.seed)
    samples = LabelledSamples(rows, start.processor, on_error, preset.augment if options.augment else None)
    outcome = fit(start, samples, targets, parts, options, output, fresh=fresh, on_epoch=on_epoch)
    # Written beside its place: a kill in the middle leaves nothing that looks like a checkpoint.
    partial = output / ".partial"
    save_checkpoint(partial, outcome.model, start.processor)
    results = {
        "model": start.name,
        "fresh": fresh,
        "manifest": manifest.name,
        "options": dataclasses.asdict(options),
        **{name: getattr(outcome, name) for name in ("rows", "valid", "test", "epochs", "trainable", "seconds")},
        "history": outcome.history,
    }
    (partial / "finetuning.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    license = license or str(start.card.metadata.get("license", "other"))
    write_report(partial, output.name, start.name, start.system, manifest, options, outcome, fresh, license)
    for file in sorted(partial.iterdir(), key=lambda f: f.name == "config.json"):
        os.replace(file, output / file.name)
    shutil.rmtree(partial)
    return outcome


def _some(rows: Sequence[int], seed: int) -> list[int]:
    """Return up to `STATISTICS_ROWS` of some rows, by chance."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return [rows[i] for i in order[:STATISTICS_ROWS].tolist()]


def _standardise(model: TaskModel, states: FrozenStates, frozen: bool) -> None:
    """Set the head's feature statistics.

    Features of a frozen encoder get unit variance each. Those of an encoder that learns get unit size together: they
    often vary far less than they are large, and scaled by what they vary, its first steps would throw them about.
    """
    table = torch.cat([s.reshape(-1, s.shape[-1]) for s in states.states.values()]).double()
    if frozen:
        spread = table.std(0, correction=0)
        # A feature that hardly varies beside the others says little: it is not blown up to their size.
        scale = spread.clamp(min=1e-3 * float(spread.max()))
    else:
        scale = table.square().mean().sqrt().expand(table.shape[1])
    model.task_head.centre.copy_(table.mean(0))
    model.task_head.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))


def _loss(model: TaskModel, targets: Targets, train: Sequence[int], options: FinetuneOptions) -> TaskLoss:
    """Return the run's loss; for numbers, set the head's target statistics too."""
    if options.task in NUMBER_TASKS:
        centre, scale = targets.moments(train)
        model.task_head.target_centre.copy_(centre)
        model.task_head.target_scale.copy_(scale)
        return TaskLoss(options.task, centre=centre, scale=scale)
    return TaskLoss(options.task, targets.weights(train) if options.class_weights == "balanced" else None)
