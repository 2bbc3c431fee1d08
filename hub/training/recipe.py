"""Recipes: a YAML file that reproduces one pretraining run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hub.domain import System, get_system, systems
from hub.errors import InvalidRecipe
from hub.training.schedules import SCHEDULES

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainingOptions:
    """The ``training`` section of a recipe.

    Attributes:
        steps: Optimiser steps.
        batch_size: Samples in a batch, over all processes; or 0 to batch by ``batch_cost`` alone.
        batch_cost: Largest padded cost of a batch in the processor's unit; or 0 to batch by ``batch_size`` alone.
        accumulation: Batches in an optimiser step.
        optimizer: ``adamw``, ``lars``, ``dino-adamw``, or ``module:Class`` relative to the domain's package.
        learning_rate: Peak.
        weight_decay: For every parameter but biases and normalisation weights.
        schedule: One of `hub.training.schedules.SCHEDULES`.
        warmup: Share of the steps spent rising linearly to the peak.
        decay: Share of the steps at the end that ``warmup-stable-decay`` falls for.
        final: Factor of the peak that a falling schedule ends at; above 1 it rises, as a few published ones do.
        clip: Largest global gradient norm; 0 for no clipping.
        precision: ``fp32``, or ``bf16`` autocast.
        seed: Of initialisation, order, crops, masks and dropout.
        log_every: Optimiser steps between two points of the curve.
        save_every: Optimiser steps between two resumable checkpoints, a multiple of ``log_every``.
        monitor_every: Optimiser steps between two looks at how the embeddings spread (`hub.training.monitors`), a
            multiple of ``log_every``; 0 takes a look with each resumable checkpoint.
        readers: Processes that read and prepare samples; 0 does it in the training process.
        compile: Whether ``torch.compile`` translates the task; worth it where batches keep their shape.
    """

    steps: int
    batch_size: int = 0
    batch_cost: int = 0
    accumulation: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup: float = 0.07
    decay: float = 0.1
    final: float = 0.0
    clip: float = 1.0
    precision: str = "fp32"
    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    monitor_every: int = 0
    readers: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidRecipe on the first value that cannot be."""
        for name in ("steps", "accumulation", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise InvalidRecipe(f"training.{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size < 1 and self.batch_cost < 1:
            raise InvalidRecipe("training needs batch_size or batch_cost (or both, then each is a limit)")
        if self.schedule not in SCHEDULES:
            raise InvalidRecipe(f"training.schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        if self.precision not in PRECISIONS:
            raise InvalidRecipe(f"training.precision {self.precision!r} is none of {', '.join(PRECISIONS)}")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidRecipe(f"training.{name} {getattr(self, name)} is a share of the steps, from 0 to 1")
        if not self.final >= 0:
            raise InvalidRecipe(f"training.final {self.final} is a factor, at least 0")
        for name in ("save_every", "monitor_every"):
            # A resumed run must write the same points of the curve as an uninterrupted one.
            if getattr(self, name) % self.log_every:
                raise InvalidRecipe(
                    f"training.{name} ({getattr(self, name)}) must be a multiple of log_every ({self.log_every})"
                )


@dataclass(frozen=True)
class Recipe:
    """One pretraining run.

    Attributes:
        name: Its file's stem.
        system: What is trained.
        training: How.
        description: One sentence.
        model: Fields of the system's configuration.
        processor: Fields of its processor.
        pretext: Options of its collator.
        curation: When and how the samples are chosen anew (`hub.training.dynamic_curation`); empty for all samples.
    """

    name: str
    system: System
    training: TrainingOptions
    description: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    pretext: Mapping[str, Any] = field(default_factory=dict)
    curation: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str) -> Recipe:
        """Build a recipe from decoded YAML.

        Raises:
            InvalidRecipe: A key is unknown, missing, or has a value that cannot be.
            UnknownDomain: There is no such system.
        """
        if not isinstance(data, Mapping):
            raise InvalidRecipe(f"recipe {name}: a recipe is a mapping of sections, not {type(data).__name__}")
        known = {f.name for f in dataclasses.fields(cls)} - {"name"}
        _refuse_unknown(data, known, f"recipe {name}")
        for required in ("system", "training"):
            if required not in data:
                raise InvalidRecipe(f"recipe {name}: section {required!r} is missing")
        options = dict(data["training"])
        types = {f.name: f.type for f in dataclasses.fields(TrainingOptions)}
        _refuse_unknown(options, set(types), f"recipe {name}, training")
        for key, value in options.items():
            options[key] = _typed(value, str(types[key]), f"recipe {name}, training.{key}")
        if "steps" not in options:
            raise InvalidRecipe(f"recipe {name}, training: steps is missing")
        sections = {k: data[k] for k in ("description", "model", "processor", "pretext", "curation") if k in data}
        return cls(name, get_system(data["system"]), TrainingOptions(**options), **sections)

    def with_training(self, **changes: Any) -> Recipe:
        """Return the recipe with some training options replaced; ``None`` keeps what stands."""
        changes = {k: v for k, v in changes.items() if v is not None}
        return dataclasses.replace(self, training=dataclasses.replace(self.training, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes."""
        return {
            "system": self.system.name,
            "description": self.description,
            "model": dict(self.model),
            "processor": dict(self.processor),
            "pretext": dict(self.pretext),
            "curation": dict(self.curation),
            "training": dataclasses.asdict(self.training),
        }


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe from a YAML file, or a built-in one as ``recipe`` or ``system/recipe``.

    Raises:
        InvalidRecipe: There is none, or it is not a recipe.
    """
    path = Path(name)
    if not path.is_file():
        built_in = {f"{s.name}/{n}": p for s in systems().values() for n, p in s.recipes.items()}
        matches = [k for k in built_in if str(name) in (k, k.split("/")[1], k.replace("/", "-"))]
        if len(matches) != 1:
            raise InvalidRecipe(
                f"no recipe {str(name)!r}: no such file, and the built-in ones are {', '.join(built_in)}"
            )
        path = built_in[matches[0]]
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InvalidRecipe(f"{path} is not YAML: {error}") from None
    return Recipe.from_dict(data, path.stem)


def _refuse_unknown(data: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise InvalidRecipe(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _typed(value: Any, kind: str, where: str) -> Any:
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if (kind == "str" and isinstance(value, str)) or (kind == "bool" and isinstance(value, bool)):
        return value
    # YAML reads 2e-4 (no point) as a string: the commonest slip, so the text says what would be right.
    raise InvalidRecipe(f"{where}: {value!r} is not of type {kind}" + (" (write 2.0e-4)" if kind == "float" else ""))
