"""Embedding files, as ``fmhub embed`` writes them."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hub.curation.clustering import Matrix
from hub.errors import InvalidManifest


@dataclass(frozen=True)
class VectorFile:
    """Embeddings of a file.

    Attributes:
        path: The file.
        items: ``(source, key)`` of each.
        vectors: ``(items, dimension)`` float32.
    """

    path: Path
    items: list[tuple[str, str]]
    vectors: Matrix

    def places(self) -> dict[Path, list[int]]:
        """Return for each native file, as an absolute path, the rows that hold its samples.

        Relative sources are below the working directory, as they were for ``fmhub embed``.
        """
        found: dict[Path, list[int]] = defaultdict(list)
        resolved: dict[str, Path] = {}
        for number, (source, _) in enumerate(self.items):
            if source not in resolved:
                resolved[source] = Path(source).resolve()
            found[resolved[source]].append(number)
        return found


def read_vectors(path: Path) -> VectorFile:
    """Read a parquet, jsonl, or npy file (with its ``.npy.items.csv``).

    Raises:
        InvalidManifest: It is none of these, or its parts do not fit each other.
    """
    readers = {".parquet": _parquet, ".jsonl": _jsonl, ".npy": _npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidManifest(f"{path}: an embeddings file ends in {', '.join(readers)}, as fmhub embed writes it")
    try:
        items, vectors = reader(path)
    except FileNotFoundError as error:
        raise InvalidManifest(f"no such embeddings file: {error.filename or path}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError) as error:
        raise InvalidManifest(f"{path} is not an embeddings file as fmhub embed writes it: {error}") from None
    if not all(isinstance(name, str) for item in items for name in item):
        raise InvalidManifest(f"{path}: a source or key is missing")
    if vectors.ndim != 2 or len(items) != len(vectors):
        raise InvalidManifest(f"{path} names {len(items)} samples for embeddings of the shape {vectors.shape}")
    return VectorFile(path, items, vectors)


def _parquet(path: Path) -> tuple[list[tuple[str, str]], Matrix]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["source", "key", "embedding"]).combine_chunks()
    items = list(zip(table["source"].to_pylist(), table["key"].to_pylist(), strict=True))
    column = table["embedding"]
    width = column.type.list_size
    values = [chunk.flatten().to_numpy().reshape(-1, width) for chunk in column.chunks]
    return items, np.concatenate(values).astype(np.float32, copy=False)


def _jsonl(path: Path) -> tuple[list[tuple[str, str]], Matrix]:
    with path.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    return [(row["source"], row["key"]) for row in rows], np.array([row["embedding"] for row in rows], np.float32)


def _npy(path: Path) -> tuple[list[tuple[str, str]], Matrix]:
    with path.with_suffix(".npy.items.csv").open(newline="", encoding="utf-8") as stream:
        items = [(row["source"], row["key"]) for row in csv.DictReader(stream)]
    return items, np.load(path, allow_pickle=False).astype(np.float32, copy=False)
