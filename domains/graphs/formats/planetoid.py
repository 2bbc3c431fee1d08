"""Planetoid's citation graphs (Yang et al., ICML 2016): Python 2 pickles, read with nothing allowed but arrays.

Only from a folder on disk. An upload is never unpickled, however safely.
"""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from domains.graphs.formats.numbers import decode, whole_rows
from domains.graphs.limits import GraphLimits, build_sample
from hub.errors import InvalidInput, TooLarge
from hub.reading import Sample

PARTS = ("tx", "allx", "y", "ty", "ally", "graph")
VALID = 500
"""Nodes of the validation part, those after the training part."""
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("scipy.sparse.csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("collections", "defaultdict"): collections.defaultdict,
    ("__builtin__", "list"): list,
    ("__builtin__", "object"): object,
}


def planetoid_name(path: Path) -> str | None:
    """Return the set's name if a file is the graph of a Planetoid set: ``ind.NAME.graph``."""
    parts = path.name.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "ind" and parts[2] == "graph" else None


def read_planetoid(folder: Path, name: str, limits: GraphLimits) -> Sample:
    """Return a citation graph, with labels ``y`` and the masks of the public split.

    Test nodes that the files leave out (CiteSeer has some) are isolated nodes without features.

    Args:
        folder: Holds ``ind.NAME.x`` and the others.
        name: Of the set.
        limits: What is accepted.

    Raises:
        InvalidInput: A file is missing, damaged, or holds something else than arrays.
    """
    tx, allx, y, ty, ally, graph = (_load(folder / f"ind.{name}.{part}", limits) for part in PARTS)
    path = folder / f"ind.{name}.test.index"
    if not path.exists():
        raise InvalidInput(f"{path.name} is missing", code="incomplete")
    test = whole_rows(decode(path.read_bytes(), path.name), path.name, 1)[:, 0]
    try:
        nodes = max(len(graph), int(test.max()) + 1)
        limits.check_nodes(nodes)
        limits.check_features(allx.shape[1], nodes)
        features = np.zeros((nodes, allx.shape[1]), np.float32)
        labels = np.zeros((nodes, ally.shape[1]), np.float32)
        known = allx.shape[0]
        features[:known], labels[:known] = allx.toarray(), ally
        features[test], labels[test] = tx.toarray(), ty
        pairs = [(node, other) for node, others in graph.items() for other in others]
        sample = build_sample(limits, np.array(pairs, np.int64).reshape(-1, 2).T, features)
        train = len(y)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"the files of ind.{name} contradict each other", code="damaged") from None
    data = sample.data
    data.y = torch.from_numpy(labels.argmax(1))
    data.train_mask, data.val_mask, data.test_mask = torch.zeros(3, nodes, dtype=torch.bool)
    data.train_mask[:train] = True
    data.val_mask[train : train + VALID] = True
    data.test_mask[torch.from_numpy(test)] = True
    return sample


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows no other classes than arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _load(path: Path, limits: GraphLimits) -> Any:
    if not path.exists():
        raise InvalidInput(f"{path.name} is missing", code="incomplete")
    if path.stat().st_size > limits.max_bytes:
        raise TooLarge(f"{path.name} has {path.stat().st_size:,} bytes; at most {limits.max_bytes:,} are read")
    try:
        with path.open("rb") as stream:
            return _ArraysOnly(stream, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = str(error) if isinstance(error, pickle.UnpicklingError) else "it is damaged"
        raise InvalidInput(f"{path.name} is not read: {reason}", code="unsafe_pickle") from None
