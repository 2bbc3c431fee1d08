"""An encoder with a head: any system's model class, extended by what a fine-tuned checkpoint adds.

A fine-tuned checkpoint is a checkpoint of its system: the encoder's tensors under their usual names and the head's
under ``task_head.``, described in ``config.json`` under ``finetuned``. What knows nothing of heads loads the encoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hub.errors import InvalidCheckpoint
from hub.finetuning.task import NUMBER_TASKS, SECTION, HeadSpec
from hub.modeling import EmbeddingModel
from hub.reading import Sample

HEAD = "task_head."
"""Prefix of the head's tensors. Not ``head.``: that is what pretext tasks call theirs."""

LIKELY = 0.5
"""Probability from which a label of a multi-label task is given."""


class TaskHead(nn.Module):
    """Centred and scaled features, an optional hidden layer, and one linear output a label.

    Centre and scale are fixed, measured on the training part before the first step: encoders differ in scale by orders
    of magnitude, and one learning rate has to do for all.
    """

    centre: Tensor
    scale: Tensor
    target_centre: Tensor
    target_scale: Tensor

    def __init__(self, features: int, spec: HeadSpec) -> None:
        """Create a head that says nothing yet: its output is zero until it is trained.

        Args:
            features: Length of the vectors it is given.
            spec: What it predicts.
        """
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.dropout = nn.Dropout(spec.dropout)
        self.hidden = nn.Linear(features, spec.hidden) if spec.hidden else None
        self.output = nn.Linear(spec.hidden or features, len(spec.labels))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if spec.task in NUMBER_TASKS:
            # The head learns standardised targets; these lead back to their units.
            self.register_buffer("target_centre", torch.zeros(len(spec.labels)))
            self.register_buffer("target_scale", torch.ones(len(spec.labels)))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(..., features)`` to ``(..., labels)`` float32: logits, or standardised numbers."""
        states = (features.to(self.centre.dtype) - self.centre) / self.scale
        if self.hidden is not None:
            states = F.gelu(self.hidden(self.dropout(states)))
        return self.output(self.dropout(states)).float()

    def in_units(self, outputs: Tensor) -> Tensor:
        """Return standardised numbers in the units of the targets, same shape."""
        return outputs * self.target_scale.float() + self.target_centre.float()


class TaskModel(EmbeddingModel):
    """Mixin over a system's model: the encoder stays what it is, ``embed`` included, and gains a head and a task."""

    task_head: TaskHead
    spec: HeadSpec

    def __init__(self, config: Any) -> None:
        """Create encoder and head from a configuration with a ``finetuned`` section."""
        super().__init__(config)
        self.spec = HeadSpec.from_dict(getattr(config, SECTION, None))
        self.check_options(self.spec.pooling, self.spec.layer)
        self.task_head = TaskHead(self.embedding_dimension(self.spec.pooling, self.spec.layer), self.spec)
        self.tasks = {**type(self).tasks, self.spec.answer: self.spec.answer}

    def represent(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what the head reads.

        Args:
            batch: What the processor's ``pad`` returned, on this model's device.

        Returns:
            ``(batch, features)`` float32, or ``(batch, tokens, features)`` for a task with an output a token; and the
            mask of real tokens, ``(batch, tokens)`` bool.
        """
        states, mask = self.token_states(batch, self.spec.layer)
        states = states.float()
        return (states if self.spec.per_token else self.pool(states, mask, self.spec.pooling, batch)), mask

    def logits(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the head's outputs, ``(batch, labels)`` or ``(batch, tokens, labels)``, and the mask of tokens."""
        features, mask = self.represent(batch)
        return self.task_head(features), mask

    def classify(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Classify each sample: ``{"label", "scores"}``, or ``{"labels", "scores"}`` of a multi-label task.

        Scores are probabilities, in the labels' order; of a multi-label task each label has its own.
        """
        logits, _ = self.logits(batch)
        names = self.spec.labels
        if self.spec.task == "multilabel":
            rows = [dict(zip(names, map(_rounded, row), strict=True)) for row in logits.sigmoid().tolist()]
            return [{"labels": [name for name in names if row[name] >= LIKELY], "scores": row} for row in rows]
        best = logits.argmax(-1).tolist()
        return [
            {"label": names[index], "scores": dict(zip(names, map(_rounded, row), strict=True))}
            for index, row in zip(best, logits.softmax(-1).tolist(), strict=True)
        ]

    def regress(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Predict the numbers of each sample, in their own units: ``{"values": {name: number}}``."""
        values = self.task_head.in_units(self.logits(batch)[0])
        return [{"values": dict(zip(self.spec.labels, row, strict=True))} for row in values.tolist()]

    def label_tokens(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Classify each token: ``{"labels", "scores"}``, one label and its probability a token."""
        logits, mask = self.logits(batch)
        scores, best = logits.softmax(-1).max(-1)
        return [
            {"labels": [self.spec.labels[i] for i in b[m].tolist()], "scores": list(map(_rounded, s[m].tolist()))}
            for b, s, m in zip(best, scores, mask, strict=True)
        ]

    def regress_tokens(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Predict a number for each token, in its own unit: ``{"values"}``."""
        logits, mask = self.logits(batch)
        values = self.task_head.in_units(logits)[..., 0]
        return [{"values": v[m].tolist()} for v, m in zip(values, mask, strict=True)]


@cache  # one class a base, so that two loaded models are of the same
def task_model_class(base: type[EmbeddingModel]) -> type[TaskModel]:
    """Return a system's model class with a head.

    It keeps the system's class name, which is what ``architectures`` of the checkpoint then names: the class that
    transformers finds, and that loads the encoder.
    """
    if issubclass(base, TaskModel):
        return base
    return type(base.__name__, (TaskModel, base), {"__module__": base.__module__, "__doc__": TaskModel.__doc__})


def class_for(base: type[EmbeddingModel], folder: Path) -> type[EmbeddingModel]:
    """Return the class that loads a checkpoint: with a head where its ``config.json`` describes one.

    Args:
        base: The system's model class.
        folder: The checkpoint.

    Raises:
        InvalidCheckpoint: The description is damaged.
    """
    path = folder / "config.json"
    try:
        section = json.loads(path.read_text(encoding="utf-8")).get(SECTION)
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidCheckpoint(f"{path} is not a checkpoint's configuration: {error}") from None
    if section is None:
        return base
    HeadSpec.from_dict(section, str(path))
    return task_model_class(base)  # type: ignore[arg-type]  # transformers' class hides that classes are hashable


def _rounded(probability: float) -> float:
    return round(probability, 6)
