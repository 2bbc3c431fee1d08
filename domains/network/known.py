"""Known flows that come with a model: labelled embeddings, to explain other flows by.

``python -m domains.network.known MODEL MANIFEST FOLDER [--each 13]`` writes them beside a checkpoint.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from domains.network.embedded import embed_manifest, network_embedder
from hub.errors import InvalidCheckpoint

FILE = "known_flows.safetensors"


@dataclass(frozen=True)
class Known:
    """Flows to compare others with.

    Attributes:
        vectors: ``(flows, features)`` embeddings.
        labels: ``(flows,)``.
        files: Name of the capture of each.
    """

    vectors: NDArray[np.float32]
    labels: NDArray[np.str_]
    files: list[str]


def thinned(known: Known, each: int) -> Known:
    """Keep at most ``each`` flows of a label, one of each of its captures before a second of any."""
    seen: dict[tuple[str, str], int] = {}
    turns = []
    for label, file in zip(known.labels.tolist(), known.files, strict=True):
        turns.append(seen.get((label, file), 0))
        seen[label, file] = turns[-1] + 1
    kept: list[int] = []
    for label in np.unique(known.labels):
        own = np.flatnonzero(known.labels == label).tolist()
        kept += sorted(own, key=lambda row: turns[row])[:each]
    kept.sort()
    return Known(known.vectors[kept], known.labels[kept], [known.files[row] for row in kept])


def save_known(known: Known, folder: Path) -> None:
    """Write known flows beside a checkpoint, their embeddings as float16."""
    facts = {"labels": known.labels.tolist(), "files": known.files}
    save_file({"vectors": known.vectors.astype(np.float16)}, folder / FILE, metadata={"flows": json.dumps(facts)})


def load_known(folder: Path) -> Known | None:
    """Read the known flows of a checkpoint, or ``None`` where it has none.

    Raises:
        InvalidCheckpoint: They are not what `save_known` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            vectors = np.asarray(file.get_tensor("vectors"), np.float32)
            facts = json.loads(file.metadata()["flows"])
        known = Known(vectors, np.array(facts["labels"], np.str_), [str(name) for name in facts["files"]])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidCheckpoint(f"{path}: no known flows: {error}") from None
    if not vectors.ndim == 2 or not len(vectors) == len(known.labels) == len(known.files):
        sizes = f"{vectors.shape} embeddings, {len(known.labels)} labels, {len(known.files)} files"
        raise InvalidCheckpoint(f"{path}: {sizes}")
    return known


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=0, help="keep at most so many flows of a label; 0 keeps all")
    given = parser.parse_args()
    found = embed_manifest(network_embedder(given.model), given.manifest)
    known = Known(found.vectors, found.labels, found.files)
    known = thinned(known, given.each) if given.each else known
    save_known(known, given.folder)
    print(f"{len(known.labels)} known flows in {given.folder / FILE}")


if __name__ == "__main__":
    main()
