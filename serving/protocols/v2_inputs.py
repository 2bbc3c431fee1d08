"""Tensors to the inputs of a request.

``file`` holds native files, one an element, with ``filename`` beside it; ``json`` holds plain forms as JSON texts;
``value`` holds plain forms that are a text, a number or an array themselves. Tensors of any other names are the fields
of the plain form that is an object: the first axis counts the inputs, and the rest is an input's part. What serving
knows of a domain's plain form is nothing: the reader says what it takes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.bodies import decoded_json
from serving.errors import InvalidRequest, MalformedRequest
from serving.inputs import EncodedFile, Input, PlainValue, UploadedFile, as_inputs
from serving.protocols.tensors import Tensor

FILE, FILENAME, JSON, VALUE = "file", "filename", "json", "value"


class TensorValue(PlainValue):
    """A plain form with arrays in place of its lists of numbers."""

    def fingerprint(self) -> bytes:
        """Return a hash of the value, kinds of numbers included, for a reader may scale by them."""
        digest = hashlib.sha256(b"tensors\0")
        fields = self.value.items() if isinstance(self.value, dict) else [("", self.value)]
        for name, value in sorted(fields):
            if isinstance(value, np.ndarray):
                digest.update(f"{name}\0{value.dtype.str}{value.shape}\0".encode())
                digest.update(np.ascontiguousarray(value).tobytes())
            else:
                digest.update(f"{name}\0{json.dumps(value)}\0".encode())
        return digest.digest()


def inputs_of(tensors: Sequence[Tensor], shared: Mapping[str, Any]) -> list[Input]:
    """Return what a request's tensors say.

    Args:
        tensors: They.
        shared: Fields of the plain form that are the same for all inputs: the request's own parameters.

    Raises:
        InvalidRequest: They are of different lengths, stand there twice, or do not go together.
    """
    named = {tensor.name: tensor for tensor in tensors}
    if len(named) < len(tensors):
        raise InvalidRequest("two inputs have the same name", param="inputs")
    whole = [name for name in (FILE, JSON, VALUE) if name in named]
    allowed = {*whole, FILENAME} if FILE in named else set(whole)
    if whole and (len(whole) > 1 or named.keys() - allowed):
        raise InvalidRequest(
            f"{whole[0]!r} holds whole inputs, so no other tensor than 'filename', beside 'file', goes with it",
            param="inputs",
        )
    if whole and shared:
        name = next(iter(shared))[:100]
        raise InvalidRequest(
            f"there is no parameter {name!r} for inputs in {whole[0]!r}", param=name, code="unknown_field"
        )
    counts = {tensor.name: tensor.shape[0] if tensor.shape else 0 for tensor in tensors}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        shown = ", ".join(f"{name[:40]!r} has {count}" for name, count in counts.items())
        raise InvalidRequest(
            f"the first axis of each tensor counts the inputs, so it must be the same and above 0: {shown}",
            param="inputs",
        )
    count = next(iter(counts.values()), 0)
    if FILE in named:
        return _files(named[FILE], named.get(FILENAME), count)
    if JSON in named:
        return [_json(text, f"input[{i}]") for i, text in enumerate(_elements(named[JSON], count))]
    if VALUE in named:
        return [TensorValue(_part(named[VALUE], i, count)) for i in range(count)]
    return [TensorValue({**shared, **{n: _part(t, i, count) for n, t in named.items()}}) for i in range(count)]


def _files(contents: Tensor, names: Tensor | None, count: int) -> list[Input]:
    given = [None] * count if names is None else [_text(name, FILENAME) for name in _elements(names, count)]
    return [
        # In JSON a file is base64, as it is everywhere else in this service.
        EncodedFile(content, name) if isinstance(content, str) else UploadedFile(content, name)
        for content, name in zip(_elements(contents, count), given, strict=True)
    ]


def _elements(tensor: Tensor, count: int) -> list[bytes | str]:
    if not isinstance(tensor.values, list) or len(tensor.values) != count:
        raise InvalidRequest(f"{tensor.name!r} must be BYTES of shape [{count}], one element an input", param="inputs")
    return tensor.values


def _text(element: bytes | str, name: str) -> str:
    try:
        return element if isinstance(element, str) else element.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name[:100]!r} must be text in UTF-8", param="inputs") from None


def _json(element: bytes | str, place: str) -> Input:
    try:
        value = decoded_json(element if isinstance(element, bytes) else element.encode(), place)
    except MalformedRequest as error:
        raise InvalidRequest(str(error), param=place, code="invalid_json") from None
    except UnicodeEncodeError:
        raise InvalidRequest(f"{place} holds half a character", param=place, code="invalid_json") from None
    # A file in base64 may stand here as well; an array is one input.
    return as_inputs([value])[0]


def _part(tensor: Tensor, index: int, count: int) -> Any:
    """Return one input's part of a tensor: an array, or of BYTES nested lists of texts, or a plain number or text."""
    if isinstance(tensor.values, list):
        size = len(tensor.values) // count
        texts = [_text(element, tensor.name) for element in tensor.values[index * size : (index + 1) * size]]
        return np.array(texts, object).reshape(tensor.shape[1:]).tolist()
    part = tensor.values[index]
    if part.dtype.kind == "f" and not np.isfinite(part).all():
        raise InvalidRequest(
            f"input[{index}]: {tensor.name[:100]!r} holds NaN or infinity", param=f"input[{index}]", code="not_finite"
        )
    if part.dtype == np.float16:
        part = part.astype(np.float32)
    return part.item() if part.ndim == 0 else part
