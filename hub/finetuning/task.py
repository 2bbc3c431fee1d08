"""What a head predicts: the tasks, and the description of a head as a checkpoint's ``config.json`` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hub.errors import InvalidCheckpoint
from hub.modeling import Layer

SECTION = "finetuned"
"""Key of ``config.json`` under which a head is described; a checkpoint without it has none."""

ANSWERS = {
    "classification": "classify",
    "multilabel": "classify",
    "regression": "regress",
    "frames": "label_tokens",
    "dense": "regress_tokens",
}
"""Task to the name under which it is served, and of the method that answers."""

TOKEN_TASKS = ("frames", "dense")
"""Tasks with an output a token; the others have one a sample."""

NUMBER_TASKS = ("regression", "dense")
"""Tasks whose targets are numbers."""


@dataclass(frozen=True)
class HeadSpec:
    """A head, as far as it must be known to build it and to read its outputs.

    Attributes:
        task: ``classification`` (one class a sample), ``multilabel`` (any number of classes), ``regression`` (numbers),
            ``frames`` (one class a token) or ``dense`` (one number a token).
        labels: Names of the outputs, in their order.
        pooling: Reduction of token states to one vector; ``none`` for the tasks with an output a token.
        layer: Hidden state that the head reads, see `hub.configuration.EmbeddingConfig`.
        hidden: Width of a hidden layer, or 0 for a linear head.
        dropout: Before each linear layer, in training.
    """

    task: str
    labels: tuple[str, ...]
    pooling: str
    layer: Layer = -1
    hidden: int = 0
    dropout: float = 0.0

    @property
    def answer(self) -> str:
        """Name under which the task is served."""
        return ANSWERS[self.task]

    @property
    def per_token(self) -> bool:
        """Whether there is an output a token, and not one a sample."""
        return self.task in TOKEN_TASKS

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, fit for JSON."""
        return {**asdict(self), "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, section: Any, where: str = "config.json") -> HeadSpec:
        """Read a configuration's section.

        Args:
            section: The decoded value.
            where: What messages call the file.

        Raises:
            InvalidCheckpoint: It does not describe a head that this version knows.
        """
        names = {f.name for f in fields(cls)}
        if (
            not isinstance(section, Mapping)
            or set(section) - names
            or not {"task", "labels", "pooling"} <= set(section)
        ):
            raise InvalidCheckpoint(
                f"{where}: {SECTION!r} does not describe a head; it holds {', '.join(sorted(names))}"
            )
        if section["task"] not in ANSWERS:
            raise InvalidCheckpoint(f"{where}: {SECTION}.task {section['task']!r} is none of {', '.join(ANSWERS)}")
        labels = section["labels"]
        if not isinstance(labels, list | tuple) or not labels or not all(isinstance(name, str) for name in labels):
            raise InvalidCheckpoint(f"{where}: {SECTION}.labels is not a list of names")
        return cls(**{**section, "labels": tuple(labels)})
