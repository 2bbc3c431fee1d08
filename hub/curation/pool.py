"""The samples to choose among: one manifest row and one embedding each."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from hub.curation.clustering import Matrix
from hub.curation.vectors import VectorFile
from hub.embedder import Embedder
from hub.errors import InvalidInput, InvalidManifest, UnsupportedOption
from hub.manifest import Row, read_manifest
from hub.modeling import Layer
from hub.reading import Sample, Source


@dataclass
class Pool:
    """Samples that can be chosen, and those that cannot.

    Attributes:
        rows: One a sample; ``item`` is its key, so that a manifest names it.
        vectors: ``(rows, dimension)`` float32, all finite.
        unusable: Rows that gave no embedding, with the reason.
    """

    rows: list[Row]
    vectors: Matrix
    unusable: list[tuple[Row, str]] = field(default_factory=list)


def find_rows(data: Path, embedder: Embedder) -> tuple[list[Row], list[Row]]:
    """Return the rows to choose among, and those that are none of curation's business.

    Args:
        data: Folder of native files, or a manifest.
        embedder: Knows what to look for in a folder.

    Returns:
        All rows, and none; of a split set the ``train`` rows, and the rows of the other splits.

    Raises:
        InvalidManifest: It is no manifest, or there is nothing to choose among.
    """
    if data.is_dir():
        suffixes = embedder.system.domain.suffixes
        rows = [Row(file) for file in embedder.reader.find(data, suffixes)]
        if not rows:
            raise InvalidManifest(f"{data} holds no file that {embedder.name} reads ({' '.join(suffixes)})")
        return rows, []
    rows = read_manifest(data)
    if not any(row.split for row in rows):
        return rows, []
    train = [row for row in rows if row.split == "train"]
    if not train:
        raise InvalidManifest(f"{data} has a split column, and no row of the train split to choose from")
    return train, [row for row in rows if row.split != "train"]


def embed_rows(
    rows: Iterable[Row],
    embedder: Embedder,
    *,
    pooling: str | None = None,
    layer: Layer = None,
    batch_cost: int | None = None,
) -> Pool:
    """Read and embed what the rows name; a row without ``item`` names all samples of its file.

    Args:
        rows: Of a manifest. Rows of one file and span that follow each other are read once.
        embedder: The model.
        pooling: As for ``embed``, but one vector a sample.
        layer: As for ``embed``.
        batch_cost: As for ``embed``.

    Raises:
        InvalidManifest: Not one sample could be embedded.
        UnsupportedOption: The pooling or layer is not offered, or keeps the tokens apart.
    """
    if (pooling or embedder.model.config.pooling) == "none":
        raise UnsupportedOption("curation needs one vector a sample, so pooling cannot be none", param="pooling")
    found: list[Row] = []
    unusable: list[tuple[Row, str]] = []

    def samples() -> Iterator[Sample]:
        for row, sample in _read(rows, embedder, unusable):
            # The number for a key tells below which samples the embedder left out.
            yield dataclasses.replace(sample, key=str(len(found)))
            found.append(row)

    result = embedder.embed(samples(), pooling=pooling, layer=layer, batch_cost=batch_cost, on_error="collect")
    embedded = [int(key) for _, key in result.items]
    failed = sorted(set(range(len(found))) - set(embedded))
    unusable += [(found[n], error.message) for n, error in zip(failed, result.errors, strict=True)]
    return _pool([found[n] for n in embedded], np.asarray(result), unusable)


def look_up_rows(rows: Iterable[Row], file: VectorFile) -> Pool:
    """Take the embeddings of what the rows name from a file that ``fmhub embed`` wrote.

    Args:
        rows: Of a manifest, without spans.
        file: The embeddings.

    Raises:
        InvalidManifest: The file has an embedding of not one sample.
        UnsupportedOption: A row is a part of a recording; the file has embeddings of whole recordings.
    """
    found: list[Row] = []
    numbers: list[int] = []
    unusable: list[tuple[Row, str]] = []
    places = file.places()
    for (native, span), same in groupby(rows, key=lambda row: (row.file, row.span)):
        if span is not None:
            raise UnsupportedOption(
                f"{file.path} holds embeddings of whole files, and the manifest names a part of {native} (start, "
                "stop); leave --embeddings out, so that the parts are embedded",
                param="embeddings",
            )
        here = places.get(native.resolve(), [])
        for row, number in _named(same, [file.items[n][1] for n in here], unusable, f"not in {file.path}"):
            found.append(row)
            numbers.append(here[number])
    return _pool(found, file.vectors[numbers], unusable)


def _read(rows: Iterable[Row], embedder: Embedder, unusable: list[tuple[Row, str]]) -> Iterator[tuple[Row, Sample]]:
    for (file, span), same in groupby(rows, key=lambda row: (row.file, row.span)):
        try:
            samples = list(embedder.read(Source.from_path(file), span))
        except InvalidInput as error:
            unusable += [(row, error.message) for row in same]
            continue
        keys = [sample.key for sample in samples]
        for row, number in _named(same, keys, unusable, "its file has no sample of this name"):
            yield row, samples[number]


def _named(
    rows: Iterable[Row], keys: Sequence[str], unusable: list[tuple[Row, str]], absent: str
) -> Iterator[tuple[Row, int]]:
    """Yield what the rows of one file mean, sample by sample: its row, and its number among the file's keys."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        numbers[key].append(number)
    for row in rows:
        wanted = [row.item] if row.item else list(numbers)
        if not wanted or (row.item and row.item not in numbers):
            unusable.append((row, absent))
            continue
        for key in wanted:
            named = dataclasses.replace(row, item=key)
            if reason := _why_unnameable(named, len(numbers[key]), len(keys)):
                unusable += [(named, reason)] * len(numbers[key])
            else:
                yield named, numbers[key][0]


def _why_unnameable(row: Row, times: int, samples: int) -> str:
    """Return why a manifest cannot hold this row and mean one sample of its file, or nothing."""
    if not row.item and samples > 1:
        return "it has no name in its file, and a manifest cannot tell it from the others"
    if times > 1:
        return f"{times} samples of its file are called {row.item!r}, and a manifest cannot tell them apart"
    if not _survives_csv(row.item) or not _survives_csv(str(row.file)):
        return "its name holds a line break, or space at an end, and a manifest cannot hold that"
    return ""


def _survives_csv(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return text == text.strip() and len(text.splitlines()) <= 1


def _pool(rows: list[Row], vectors: Matrix, unusable: list[tuple[Row, str]]) -> Pool:
    good = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    unusable += [(rows[n], "its embedding is not finite") for n in sorted(set(range(len(rows))) - set(good.tolist()))]
    if not len(good):
        first = f"; the first: {unusable[0][0].file}: {unusable[0][1]}" if unusable else ""
        raise InvalidManifest(f"not one of {len(unusable)} samples has an embedding{first}")
    return Pool([rows[n] for n in good.tolist()], vectors[good], unusable)
