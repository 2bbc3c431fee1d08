"""Flows of captures and of labelled sets, embedded: what neighbours, anomalies and known flows are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.embedder import Embedder, from_pretrained
from hub.errors import InvalidInput, InvalidManifest, UnsupportedOption
from hub.manifest import read_manifest
from hub.reading import Reader, Sample, Source


@dataclass(frozen=True)
class Embedded:
    """Flows of some files, embedded.

    Attributes:
        samples: As they were read.
        files: Name of the file of each.
        labels: ``(flows,)`` its label, empty where it has none.
        vectors: ``(flows, features)``.
    """

    samples: list[Sample]
    files: list[str]
    labels: NDArray[np.str_]
    vectors: NDArray[np.float32]


def network_embedder(model: str) -> Embedder:
    """Load a model of network flows.

    Raises:
        UnsupportedOption: It is a model of something else.
    """
    embedder = from_pretrained(model)
    if embedder.system.domain.name != "network":
        raise UnsupportedOption(f"{model} is a model of {embedder.system.domain.title}", param="model")
    return embedder


def embed_files(embedder: Embedder, files: Sequence[Path], names: bool = False) -> Embedded:
    """Embed all flows of some captures.

    Args:
        embedder: Of network flows.
        files: The captures.
        names: Whether keys of flows hold their addresses and ports.

    Raises:
        InvalidInput: One of them cannot be used.
    """
    reader: Any = embedder.reader
    reader = dataclasses.replace(reader, name_endpoints=names)
    return _embedded(embedder, ((file, sample, "") for file in files for sample in _flows(reader, file)))


def embed_manifest(embedder: Embedder, manifest: Path) -> Embedded:
    """Embed the labelled flows of a manifest; a row without ``item`` labels all flows of its file.

    Raises:
        InvalidManifest: It cannot be read, or names a flow that there is not.
    """
    return _embedded(embedder, _labelled(embedder, manifest))


def _labelled(embedder: Embedder, manifest: Path) -> Iterator[tuple[Path, Sample, str]]:
    by_file: dict[Path, dict[str, str]] = {}
    for row in read_manifest(manifest, need=("file", "label")):
        by_file.setdefault(row.file, {})[row.item] = row.label
    for file, labels in by_file.items():
        left = set(labels) - {""}
        for sample in _flows(embedder.reader, file):
            label = labels.get(sample.key, labels.get(""))
            left.discard(sample.key)
            if label is not None:
                yield file, sample, label
        if left:
            raise InvalidManifest(f"{manifest}: {file.name} has no flow {sorted(left)[0]!r}")


def _flows(reader: Reader, file: Path) -> Iterator[Sample]:
    for sample in reader.read(Source.from_path(file)):
        if sample.error is None:
            yield sample


def _embedded(embedder: Embedder, flows: Iterator[tuple[Path, Sample, str]]) -> Embedded:
    found = list(flows)
    if not found:
        raise InvalidInput("the files hold no flow that can be used", code="no_flows")
    samples = [sample for _, sample, _ in found]
    vectors = np.asarray(embedder.embed(samples).vectors)
    return Embedded(samples, [f.name for f, _, _ in found], np.array([label for _, _, label in found]), vectors)
