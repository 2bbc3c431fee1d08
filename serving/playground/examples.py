"""Known examples of a model's domain, embedded once: neighbours of other samples, and a map to see them on."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.embedder import Embedder
from hub.errors import InvalidInput, UnsupportedOption
from hub.modeling import TaskFile
from hub.reading import Source
from serving.engine import Engine
from serving.errors import InputFailed
from serving.inputs import UploadedFile
from serving.jobs import Call, Output, resolve_work
from serving.lane import Lane

NEAREST = 5
"""Neighbours that are told of a sample."""


@dataclass
class Examples:
    """Examples of one model.

    Attributes:
        files: What they are, one sample each.
        vectors: ``(examples, features)`` float32, in the order of the files.
        space: Id of the embedding space that the vectors lie in.
        places: ``(examples, 2)`` on the map.
        shares: Of the variance that the two axes of the map show.
        pictures: Small ones by name, of those that were asked for.
    """

    files: list[Source]
    vectors: NDArray[np.float32]
    space: str
    places: NDArray[np.float64] = field(init=False)
    shares: tuple[float, float] = field(init=False)
    pictures: dict[str, TaskFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the plane of the map: the two first principal axes of the centred vectors of unit length.

        Of unit length, because then distances on the map are what the cosines between centred vectors say.
        """
        self._mean = self.vectors.mean(axis=0, dtype=np.float64)
        self._units = self._unit(self.vectors)
        self._middle = self._units.mean(axis=0)
        _, strengths, axes = np.linalg.svd(self._units - self._middle, full_matrices=False)
        power = np.square(strengths)
        shares = np.pad(power / max(power.sum(), 1e-12), (0, 2))
        self._axes = np.pad(axes, ((0, max(0, 2 - len(axes))), (0, 0)))[:2]
        self.shares = float(shares[0]), float(shares[1])
        self.places = (self._units - self._middle) @ self._axes.T

    def _unit(self, vectors: NDArray[Any]) -> NDArray[np.float64]:
        centred = vectors - self._mean
        return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-12)

    def beside(self, vector: NDArray[Any]) -> dict[str, Any]:
        """Return where a sample lies among the examples.

        Args:
            vector: ``(features,)`` of the same space.

        Returns:
            ``place`` on the map, and the ``nearest`` examples with the cosine of the centred vectors, best first.
        """
        unit = self._unit(vector)
        cosines = self._units @ unit
        best = np.argsort(-cosines, kind="stable")[:NEAREST]
        return {
            "place": _rounded((unit - self._middle) @ self._axes.T),
            "nearest": [{"name": self.files[i].name, "cosine": round(float(cosines[i]), 4)} for i in best.tolist()],
        }

    def listed(self) -> list[dict[str, Any]]:
        """Return what they are called and where they lie on the map."""
        return [
            {"name": file.name, "place": _rounded(place)} for file, place in zip(self.files, self.places, strict=True)
        ]

    def file(self, name: str) -> Source:
        """Return an example's file.

        Raises:
            UnsupportedOption: There is none of this name.
        """
        found = next((file for file in self.files if file.name == name), None)
        if found is None:
            raise UnsupportedOption(f"there is no example {name[:100]!r}", param="name", code="example_not_found")
        return found


def _rounded(place: NDArray[np.float64]) -> list[float]:
    return [round(float(number), 4) for number in place]


class ExampleShelf:
    """The examples of all models, made on first use."""

    def __init__(self, engine: Engine) -> None:
        """Prepare; nothing is made yet."""
        self._engine = engine
        self._made: dict[str, tuple[str, asyncio.Task[Examples]]] = {}

    async def of(self, lane: Lane) -> Examples:
        """Return a model's examples; whoever asks first has them embedded, and others wait.

        Raises:
            UnsupportedOption: Its domain brings none that it can read.
            Unavailable: The model cannot be loaded, or is too slow.
        """
        embedder = await lane.loaded()
        assert lane.provenance is not None
        space = lane.provenance.space(resolve_work(embedder))
        known, task = self._made.get(lane.id, ("", None))
        if task is None or known != space or (task.done() and (task.cancelled() or task.exception())):
            # In a context of its own, and shielded: others wait for it when the first one goes.
            task = asyncio.create_task(self._make(lane.id, embedder, space), context=contextvars.Context())
            self._made[lane.id] = (space, task)
        return await asyncio.shield(task)

    async def _make(self, model: str, embedder: Embedder, space: str) -> Examples:
        domain = embedder.system.domain
        write = domain.load("examples") if "examples" in domain.references else list
        files: Sequence[Source] = await self._engine.aside(write)
        kept: list[Source] = []
        vectors: list[NDArray[np.float32]] = []
        # One after the other: whoever else uses the model comes in between.
        for file in files:
            try:
                content = UploadedFile(file.content or b"", file.name)
                outputs = await self._engine.embed(model, [content], call=Call("examples"))
            except InputFailed as error:
                if not isinstance(error.cause, InvalidInput):
                    raise
                continue  # Not every model of a domain takes all that its reader reads.
            first = next((output for output in outputs[0] if isinstance(output, Output)), None)
            if first is not None:
                kept.append(file)
                vectors.append(first.value)
        if not kept:
            raise UnsupportedOption("there are no examples for this model", param="model", code="no_examples")
        return Examples(kept, np.stack(vectors), space)
