"""How unlike a model's training data an input is.

Distance: how far the embedding lies from the nearest one of a reference set. On the built-in models this tells
strangers from the model's own kind far better than cosines do (docs/sanity.md), and costs no further forward.
Stability, after BEYOND (He et al., ICML 2024, the label-free half of its score): the cosine between the embedding and
those of mildly changed copies of the input. There a low value is suspicious; here strangers are often more stable than
the model's own kind, so both ends are. What counts as far differs by model, so each figure comes with its place among
held-out samples of the reference's kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from hub.batching import batches_by_cost
from hub.embedder import Embedder, Intake, Prepared
from hub.errors import InvalidCheckpoint, InvalidInput, UnsupportedOption
from hub.publishing import sha256_of

Matrix = NDArray[np.float32]

FILE = "neighbourhood.safetensors"
VIEWS = 8
"""Changed copies of an input. BEYOND takes 50; each costs a forward."""
KTH = 4
"""Which of their cosines, counted from the largest, is the stability; BEYOND takes the 20th of 50."""
LEAST_SCALE = 1e-3
"""Of the typical deviation: what a dimension counts as deviating by at least."""
QUANTILES = 101
WINDOW = 16
"""Samples whose views are held at once."""


def views_of(intake: Intake, prepared: Prepared, count: int = VIEWS) -> list[Prepared]:
    """Return mildly changed copies of a sample, ready for the model.

    What is drawn depends on the sample's features alone, so that equal content has equal copies, whatever file it came
    in. A copy that the model cannot use, such as one cut too short, is replaced by the sample itself.

    Raises:
        UnsupportedOption: The domain offers no such change.
    """
    if intake.augment is None:
        raise UnsupportedOption("the model's domain declares no 'augment', so there is no stability", param="sanity")
    generator = torch.Generator().manual_seed(_seed(intake.processor.pad([prepared.features])))
    views: list[Prepared] = []
    for _ in range(count):
        try:
            views.append(intake.prepare(intake.augment(prepared.sample, generator), prepared.source))
        except InvalidInput:
            views.append(prepared)
    return views


def _seed(batch: dict[str, torch.Tensor]) -> int:
    digest = hashlib.sha256()
    for name, tensor in sorted(batch.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Neighbourhood:
    """A model's reference set: what an embedding is held against.

    Attributes:
        mean: ``(dimension,)`` of the reference's embeddings.
        scale: ``(dimension,)``, by how much each deviates.
        reference: ``(samples, dimension)``, standardised by both.
        distance: Quantiles of held-out samples' distance, rising.
        stability: Quantiles of their stability, rising.
        made_from: What the reference was made from, for people.
    """

    mean: Matrix
    scale: Matrix
    reference: Matrix
    distance: Matrix
    stability: Matrix
    made_from: str = ""

    def judge(self, vectors: Sequence[Matrix]) -> dict[str, float]:
        """Return how near a sample lies.

        Args:
            vectors: Its embedding, then those of its views if there are any, ``(dimension,)`` each.

        Returns:
            ``distance`` to the nearest reference, in deviations a dimension, and ``percentile``, the percentage of
            held-out samples of the reference's kind that lie as far or farther: below 1 is what they hardly ever have.
            With views also ``stability``, a cosine, and ``stability_percentile``, the percentage of held-out samples
            that are less stable: close to 0 and close to 100 are unusual.
        """
        distance = self.distance_of(vectors[0])
        found = {"distance": distance, "percentile": 100 * (1 - share_below(self.distance, distance))}
        if len(vectors) > 1:
            stability = self.stability_of(np.stack(vectors))
            place = 100 * share_below(self.stability, stability)
            found |= {"stability": stability, "stability_percentile": place}
        return {name: round(value, 4) for name, value in found.items()}

    def distance_of(self, vector: Matrix) -> float:
        """Return the root mean square over the dimensions, to the nearest reference."""
        squares = np.square(self.reference - (vector - self.mean) / self.scale)
        return float(np.sqrt(squares.mean(axis=1).min()))

    def stability_of(self, vectors: Matrix) -> float:
        """Return the ``KTH`` largest cosine, centred, of the first of ``(1 + views, dimension)`` with the others."""
        centred = vectors - self.mean
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        units = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
        return float(np.sort(units[1:] @ units[0])[-min(KTH, len(units) - 1)])


def share_below(quantiles: Matrix, value: float) -> float:
    """Return the share of a distribution below a value, by its evenly spaced quantiles, interpolated."""
    if value < quantiles[0]:
        return 0.0
    return float(np.interp(value, quantiles, np.linspace(0, 1, len(quantiles))))


def find_neighbourhood(embedder: Embedder) -> Neighbourhood:
    """Return the reference set of a loaded model, from the file beside its weights or its card.

    Raises:
        UnsupportedOption: It has none; the text says how to make one.
        InvalidCheckpoint: The file is damaged, or was made with other weights.
    """
    for folder in (embedder.folder, embedder.card.folder):
        if (folder / FILE).is_file():
            return _read(folder / FILE, embedder)
    raise UnsupportedOption(
        f"{embedder.name} comes without a reference set ({FILE}); make one from data like that of its training: "
        f"fmhub neighbourhood MODEL --data FOLDER",
        param="sanity",
        code="no_neighbourhood",
    )


def _read(path: Path, embedder: Embedder) -> Neighbourhood:
    try:
        with safe_open(path, "np") as file:
            facts = file.metadata() or {}
            found = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InvalidCheckpoint(f"{path} cannot be read: {error}") from error
    weights = embedder.folder / "model.safetensors"
    if weights.is_file() and facts.get("weights") != sha256_of(weights):
        raise InvalidCheckpoint(f"{path} was made with other weights; make it anew: fmhub neighbourhood")
    try:
        return Neighbourhood(**found, made_from=facts.get("made_from", ""))
    except TypeError:
        raise InvalidCheckpoint(f"{path} is no reference set: it holds {', '.join(found) or 'nothing'}") from None


def judge_all(
    embedder: Embedder, inputs: Any, *, views: int = 0, errors: list[InvalidInput] | None = None
) -> list[dict[str, float]]:
    """Return for each sample of some inputs how unlike the model's training data it is; see `Neighbourhood.judge`.

    Args:
        embedder: The model.
        inputs: As for `Embedder.embed`.
        views: Changed copies of each sample to embed as well, for its stability; `VIEWS` is what the reference has.
        errors: Where inputs that cannot be used are noted, and left out.

    Raises:
        UnsupportedOption: The model comes without a reference set.
        InvalidInput: An input cannot be used, and there is no place to note it.
    """
    neighbourhood = find_neighbourhood(embedder)
    return [
        neighbourhood.judge(vectors) for _, vectors in with_views(embedder, embedder.prepared(inputs, errors), views)
    ]


def with_views(embedder: Embedder, prepared: Iterable[Prepared], count: int) -> Iterator[tuple[Prepared, list[Matrix]]]:
    """Yield samples with their embedding and those of their views, forwarded a few samples together."""
    stream = iter(prepared)
    while several := list(islice(stream, WINDOW)):
        group = [[one, *views_of(embedder.intake, one, count)] for one in several]
        flat = [item for items in group for item in items]
        vectors: list[Any] = [None] * len(flat)
        for batch in batches_by_cost([item.cost for item in flat], embedder.processor.batch_cost):
            for place, vector in zip(batch, embedder.forward([flat[i] for i in batch]), strict=True):
                vectors[place] = vector
        for number, one in enumerate(several):
            yield one, vectors[number * (1 + count) : (number + 1) * (1 + count)]
