"""Options of a fine-tuning run: defaults by mode, a domain's own, and what the user gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from hub.errors import UnsupportedOption
from hub.finetuning.task import ANSWERS
from hub.manifest import Row
from hub.modeling import Layer
from hub.reading import Sample
from hub.training.recipe import PRECISIONS, SCHEDULES

MODE_DEFAULTS: dict[str, dict[str, Any]] = {
    "frozen": {"head_learning_rate": 2e-3, "epochs": 60, "patience": 15},
    "full": {"learning_rate": 1e-4, "head_learning_rate": 1e-3},
    "layerwise": {"learning_rate": 2e-4, "head_learning_rate": 1e-3, "layer_decay": 0.75},
    "lora": {"learning_rate": 1e-3, "head_learning_rate": 1e-3},
}
"""What differs from `FinetuneOptions` in each mode; its keys are the modes."""

Augment = Callable[[Sample, torch.Generator], Sample]


@dataclass(frozen=True)
class Preset:
    """What a domain knows about fine-tuning its models.

    The ``finetune`` entry of a ``domain.toml`` names a function that returns it.

    Attributes:
        defaults: Mode to options that replace the hub's defaults.
        augment: Changes a training sample without changing its label, or ``None``.
        rows: Completes the rows of a labelled set (what belongs together gets one ``group``, for example) and raises
            InvalidManifest on a split that leaks, unless its second argument says that the leak is meant; or ``None``.
            Evaluation completes its rows by it too.
    """

    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    augment: Augment | None = None
    rows: Callable[[Sequence[Row], bool], list[Row]] | None = None


@dataclass(frozen=True)
class FinetuneOptions:
    """How to fine-tune.

    Attributes:
        task: See `hub.finetuning.task.HeadSpec`.
        mode: ``frozen`` (the head alone), ``full``, ``layerwise`` (full, with smaller steps in lower layers) or
            ``lora``.
        labels: Names of the outputs in their order; taken from the manifest where not given.
        pooling: Reduction of token states; the checkpoint's unless given.
        layer: Hidden state that the head reads; the checkpoint's unless given.
        hidden: Width of the head's hidden layer, or 0 for a linear head.
        dropout: In the head.
        epochs: Passes over the training part, at most.
        patience: Passes without a better validation score before the run ends.
        batch_size: Most samples in a batch.
        batch_cost: Most padded cost of a batch; the processor's unless given.
        learning_rate: Peak, of the encoder (in LoRA mode of the adapters).
        head_learning_rate: Peak, of the head.
        layer_decay: Factor on the learning rate from each layer to the one below it.
        lora_rank: Rank of the adapters.
        weight_decay: For every parameter but biases and normalisation weights.
        schedule: ``linear``, ``cosine`` or ``constant``.
        warmup: Share of the steps spent rising to the peak.
        clip: Largest global gradient norm; 0 for no clipping.
        precision: ``fp32``, or ``bf16`` autocast.
        class_weights: ``none``, or ``balanced``: classes weigh by the inverse of their frequency.
        valid_share: Share of the training part held out for early stopping; 0 trains to the end.
        test_share: Share of a set without a split column held out for the test.
        augment: Use the domain's augmentation.
        leaky_split: Let what belongs together (a subject, a capture) be on both sides of the split.
        seed: Of splits, order, initialisation, dropout and augmentation.
    """

    task: str
    mode: str = "frozen"
    labels: tuple[str, ...] = ()
    pooling: str | None = None
    layer: Layer = None
    hidden: int = 0
    dropout: float = 0.1
    epochs: int = 20
    patience: int = 5
    batch_size: int = 16
    batch_cost: int = 0
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-3
    layer_decay: float = 1.0
    lora_rank: int = 8
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup: float = 0.1
    clip: float = 1.0
    precision: str = "fp32"
    class_weights: str = "none"
    valid_share: float = 0.15
    test_share: float = 0.2
    augment: bool = False
    leaky_split: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UnsupportedOption on the first value that cannot be."""
        for name, known in (
            ("task", tuple(ANSWERS)),
            ("mode", tuple(MODE_DEFAULTS)),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("class_weights", ("none", "balanced")),
        ):
            if getattr(self, name) not in known:
                raise UnsupportedOption(f"{name} {getattr(self, name)!r} is none of {', '.join(known)}", param=name)
        for name in ("epochs", "patience", "batch_size", "lora_rank"):
            if getattr(self, name) < 1:
                raise UnsupportedOption(f"{name} is {getattr(self, name)}; it must be at least 1", param=name)
        for name, top in (("valid_share", 0.5), ("test_share", 0.9), ("dropout", 0.9), ("warmup", 1.0)):
            if not 0 <= getattr(self, name) <= top:
                raise UnsupportedOption(f"{name} is {getattr(self, name)}; it lies between 0 and {top}", param=name)
        if not 0 < self.layer_decay <= 1:
            raise UnsupportedOption(f"layer_decay is {self.layer_decay}; it lies above 0, up to 1", param="layer_decay")
        if self.augment and self.mode == "frozen":
            raise UnsupportedOption(
                "a frozen encoder's states are computed once, so its inputs cannot be augmented; choose another mode",
                param="augment",
            )
        if self.class_weights == "balanced" and self.task in ("regression", "dense"):
            raise UnsupportedOption(f"class weights mean nothing for {self.task}", param="class_weights")

    @classmethod
    def for_mode(cls, task: str, mode: str = "frozen", preset: Preset | None = None, **given: Any) -> FinetuneOptions:
        """Return the options of a run: the mode's defaults, then the domain's, then what is given and not ``None``.

        Raises:
            UnsupportedOption: A value cannot be, or a name is none of the options.
        """
        unknown = sorted(set(given) - {f.name for f in fields(cls)})
        if unknown:
            raise UnsupportedOption(f"there is no option {unknown[0]!r}", param=unknown[0])
        chosen = dict(MODE_DEFAULTS.get(mode, {}))
        chosen |= (preset.defaults if preset else {}).get(mode, {})
        chosen |= {name: value for name, value in given.items() if value is not None}
        return cls(task=task, mode=mode, **chosen)
