"""The embeddings that are compared: the model's, its random twins', and the domain's simple features'."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.batching import batches_by_cost
from hub.embedder import Embedder, Prepared
from hub.errors import InvalidInput, InvalidManifest, UnsupportedOption
from hub.modeling import Layer
from hub.reading import Sample, Source, Span

Features = NDArray[np.float32]
Key = tuple[Path, Span | None, str]
"""Which sample: its file, the part of it, and its key in the file."""
AVERAGED = (
    "The samples differ in their parts (channels, for example), so the baseline's features are their mean over the "
    "parts of each sample."
)


def embed_contenders(
    embedder: Embedder,
    keys: Sequence[Key],
    *,
    twins: int = 3,
    seed: int = 0,
    pooling: str | None = None,
    layer: Layer = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> dict[str, list[Features]]:
    """Embed each sample once with each contender.

    Files are read and prepared once for all of them, a window at a time, so that memory holds neither all samples nor
    any twice.

    Args:
        embedder: The model.
        keys: The samples.
        twins: Random initialisations of the same architecture.
        seed: Of the first twin; the others count on from it.
        pooling: As for ``embed``, but one vector a sample.
        layer: As for ``embed``.
        on_note: Called with what a reader of the figures should know.

    Returns:
        ``model``, and where there are any ``random_twin`` and ``baseline``, to one matrix ``(samples, dimension)`` for
        each variant of that contender, in the order of ``keys``.

    Raises:
        InvalidInput: A file cannot be used, has an embedding that is not finite, or one of another length than others.
        InvalidManifest: A key names no sample of its file, or several.
        UnsupportedOption: The pooling or layer is not offered, or keeps the tokens apart.
    """
    embedder.model.check_options(pooling, layer)
    if (pooling or embedder.model.config.pooling) == "none":
        raise UnsupportedOption("a probe needs one vector a sample, so pooling cannot be none", param="pooling")
    models = {"model": [embedder]}
    if twins:
        models["random_twin"] = [embedder.random_twin(seed + i) for i in range(twins)]
    vectors: dict[str, list[list[Any]]] = {name: [[] for _ in variants] for name, variants in models.items()}
    domain = embedder.system.domain
    baseline: Callable[[Sample], Any] | None = domain.load("baseline") if "baseline" in domain.references else None
    if baseline is not None:
        vectors["baseline"] = [[]]
    budget = embedder.processor.batch_cost
    for window in _windows(embedder, keys, 8 * budget):
        batches = batches_by_cost([p.cost for p in window], budget)
        for name, variants in models.items():
            for rows, model in zip(vectors[name], variants, strict=True):
                rows += _forward(model, window, batches, pooling, layer)
        if baseline is not None:
            vectors["baseline"][0] += [baseline(p.sample) for p in window]
    if baseline is not None:
        vectors["baseline"][0] = _side_by_side(vectors["baseline"][0], on_note)
    return {name: [_checked(name, rows, keys) for rows in variants] for name, variants in vectors.items()}


def _forward(
    model: Embedder, window: Sequence[Prepared], batches: Sequence[Sequence[int]], pooling: str | None, layer: Layer
) -> list[Features]:
    results: dict[int, Features] = {}
    for batch in batches:
        results.update(zip(batch, model.forward([window[i] for i in batch], pooling, layer), strict=True))
    return [results[i] for i in range(len(window))]


def _side_by_side(features: Sequence[Any], on_note: Callable[[str], None]) -> list[Features]:
    """Return what a baseline found in each sample as one vector.

    Args:
        features: A vector a sample, or a mapping of the sample's parts (its channels) to a vector each: these are put
            side by side where all samples have the same parts, in the first sample's order, and averaged otherwise.
        on_note: Told when they are averaged.
    """
    if not isinstance(features[0], Mapping):
        return [np.asarray(f, np.float32).reshape(-1) for f in features]
    parts = list(features[0])
    if all(f.keys() == features[0].keys() for f in features):
        return [np.concatenate([f[part] for part in parts]).astype(np.float32) for f in features]
    on_note(AVERAGED)
    return [np.mean(list(f.values()), axis=0).astype(np.float32) for f in features]


def _checked(name: str, rows: Sequence[Features], keys: Sequence[Key]) -> Features:
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        other = next(i for i, length in enumerate(lengths) if length != lengths[0])
        raise InvalidInput(
            f"the {name.replace('_', ' ')} makes {lengths[other]} numbers of this file and {lengths[0]} of "
            f"{keys[0][0].name}; the files of a set have to be alike in what it measures (channels, bands)",
            code="unlike_files",
            source=str(keys[other][0]),
        )
    table = np.stack(rows)
    for number in np.flatnonzero(~np.isfinite(table).all(1)).tolist():
        raise InvalidInput(
            f"the {name.replace('_', ' ')}'s embedding of this file holds a value that is not finite",
            code="not_finite",
            source=str(keys[number][0]),
        )
    return table


def _windows(embedder: Embedder, keys: Sequence[Key], cost: int) -> Iterator[list[Prepared]]:
    window: list[Prepared] = []
    total = 0
    for (file, _, _), sample in zip(keys, _samples(embedder, keys), strict=True):
        prepared = embedder.prepare(sample, str(file))
        if window and total + prepared.cost > cost:
            yield window
            window, total = [], 0
        window.append(prepared)
        total += prepared.cost
    yield window


def _samples(embedder: Embedder, keys: Sequence[Key]) -> Iterator[Sample]:
    read: dict[tuple[Path, Span | None], list[Sample]] = {}
    for file, span, item in keys:
        if (file, span) not in read:
            # Rows of one file come together in every manifest worth reading, so one file is kept.
            read = {(file, span): list(embedder.read(Source.from_path(file), span))}
        found = [s for s in read[file, span] if not item or s.key == item]
        if len(found) != 1:
            names = ", ".join(s.key for s in read[file, span][:5])
            raise InvalidManifest(
                f"{file}: item {item!r} names {len(found)} of its {len(read[file, span])} samples"
                + (
                    f" (their keys begin {names}); a row names one with `item`, or a stretch with `start`"
                    if names
                    else ""
                )
            )
        yield found[0]
