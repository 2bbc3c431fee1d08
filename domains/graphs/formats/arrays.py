"""Graphs in NumPy archives: ``.npz`` files, read without ever unpickling."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from domains.graphs.formats.files import Members
from domains.graphs.formats.numbers import as_whole
from domains.graphs.limits import GraphLimits, build_sample
from hub.errors import InvalidInput
from hub.reading import Sample

CSR = ("x_indptr", "x_indices", "x_data", "x_shape")
MASKS = ("train_mask", "val_mask", "test_mask")


def is_npz(members: Members) -> bool:
    """Tell a NumPy archive from one of text files."""
    return any(name.endswith(".npy") for name in members)


def read_npz(members: Members, limits: GraphLimits) -> Sample:
    """Return the graph of a NumPy archive.

    It holds ``edge_index`` ``(2, edges)`` and the node features: ``x`` ``(nodes, features)``, or a sparse matrix as
    ``x_indptr``, ``x_indices``, ``x_data`` and ``x_shape``. Node labels ``y`` and ``train_mask``, ``val_mask``,
    ``test_mask`` stay with the graph, for evaluation.

    Raises:
        InvalidInput: An array is missing, damaged, of objects, or of a shape that does not fit.
    """
    arrays = {n.removesuffix(".npy"): _array(read(), n) for n, read in members.items() if n.endswith(".npy")}
    if "edge_index" not in arrays or not ("x" in arrays or set(CSR) <= set(arrays)):
        raise InvalidInput(
            f"the archive holds {', '.join(sorted(arrays)) or 'no array'}; a graph is 'edge_index' with 'x' or "
            f"with {', '.join(CSR)}",
            code="incomplete",
        )
    edges = arrays["edge_index"]
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise InvalidInput(f"'edge_index' has the shape {edges.shape}; it is 2 x edges", code="bad_form")
    x = arrays["x"] if "x" in arrays else _from_csr(arrays, limits)
    if x.ndim != 2:
        raise InvalidInput(f"'x' has {x.ndim} dimensions; it is nodes x features", code="bad_form")
    sample = build_sample(limits, as_whole(edges.astype(np.float64), "'edge_index'"), x)
    for name in ("y", *MASKS):
        if name in arrays:
            entries = arrays[name].shape[0] if arrays[name].ndim else 1
            if arrays[name].ndim == 0 or entries != len(x):
                raise InvalidInput(f"'{name}' has {entries:,} entries for {len(x):,} nodes", code="bad_form")
            sample.data[name] = torch.from_numpy(arrays[name])
    return sample


def _array(content: bytes, name: str) -> np.ndarray:
    """Read one array; its header must not announce more than is there."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype.kind not in "biuf":
            raise InvalidInput(f"'{name}' holds {dtype.name}; arrays of numbers are read", code="bad_form")
        count = 1
        for size in shape:
            count *= size
        if count * dtype.itemsize != len(content) - stream.tell():
            raise InvalidInput(f"'{name}' is damaged: its size is not what its header says", code="damaged")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    except InvalidInput:
        raise
    except Exception:  # the header is a Python literal, whose parser raises what it likes
        raise InvalidInput(f"'{name}' is no NumPy array", code="damaged") from None


def _from_csr(arrays: dict[str, Any], limits: GraphLimits) -> np.ndarray:
    indptr, indices, data, shape = (arrays[name] for name in CSR)
    if shape.shape != (2,) or shape.min() < 0:
        raise InvalidInput("'x_shape' is not nodes and features", code="bad_form")
    nodes, features = (int(size) for size in shape)
    limits.check_nodes(nodes)
    limits.check_features(features, nodes)
    fits = (
        indptr.shape == (nodes + 1,)
        and indptr[0] == 0
        and indptr[-1] == len(indices) == len(data)
        and (np.diff(indptr) >= 0).all()
        and (not len(indices) or (indices.min() >= 0 and indices.max() < features))
    )
    if not fits:
        raise InvalidInput("the sparse features contradict their own sizes", code="bad_form")
    x = np.zeros((nodes, features), np.float32)
    np.add.at(x, (np.repeat(np.arange(nodes), np.diff(indptr)), indices), data)
    return x
