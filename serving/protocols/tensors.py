"""Tensors of the Open Inference Protocol: as JSON, and as raw bytes behind it (the binary tensor data extension)."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bodies import decoded_json
from serving.errors import InvalidRequest
from serving.protocols.v2_schemas import MAX_RANK, RequestInput

DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""The protocol's datatypes but BYTES, and BF16, which numpy does not have."""

HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Tensor:
    """A named tensor.

    Attributes:
        name: It.
        datatype: As the protocol calls it.
        shape: It.
        values: An array; of BYTES a flat list, of bytes where they came as such and of text where they came in JSON.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes | str] = field(repr=False)


def split_body(content: bytes | bytearray, announced: str | None) -> tuple[Any, memoryview]:
    """Return a request's JSON value, and the bytes behind it.

    Args:
        content: The body.
        announced: Value of the header that tells the JSON's length; without it all of the body is JSON.

    Raises:
        InvalidRequest: The header is no length within the body.
        MalformedRequest: It is not JSON.
    """
    view = memoryview(content)
    if announced is None:
        return decoded_json(content), view[len(view) :]
    if not (announced.isascii() and announced.isdecimal()) or int(announced[:12]) > len(content):
        raise InvalidRequest(
            f"the header {HEADER_LENGTH} must be the length in bytes of the JSON at the start of the body",
            param=HEADER_LENGTH,
            code="invalid_header",
        )
    length = int(announced)
    return decoded_json(bytes(view[:length]), "the JSON at the start of the body"), view[length:]


def read_tensors(entries: Sequence[RequestInput], binary: memoryview) -> list[Tensor]:
    """Return a request's inputs.

    Args:
        entries: Its ``inputs``: name, datatype, shape, and ``data`` or the parameter ``binary_data_size``.
        binary: What stands behind the JSON, in the order of the entries.

    Raises:
        InvalidRequest: A tensor's data do not fit its shape and datatype, or bytes are left over.
    """
    tensors: list[Tensor] = []
    for number, entry in enumerate(entries):
        place = f"inputs[{number}]"
        shape = tuple(entry.shape)
        if odd := next((name for name in entry.parameters if name != "binary_data_size"), None):
            raise _invalid(place, f"there is no parameter {odd[:100]!r}; known: binary_data_size")
        size = entry.parameters.get("binary_data_size")
        if (size is None) == (entry.data is None):
            raise _invalid(place, "give either 'data' or the parameter 'binary_data_size'")
        if size is None:
            values = _from_json(place, entry.datatype, shape, entry.data)
        else:
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary):
                raise _invalid(place, f"binary_data_size={size!r} is not within the {len(binary)} bytes that follow")
            values = _from_bytes(place, entry.datatype, shape, binary[:size])
            binary = binary[size:]
        tensors.append(Tensor(entry.name, entry.datatype, shape, values))
    if len(binary):
        raise InvalidRequest(f"{len(binary)} bytes are left behind the last tensor", param="inputs")
    return tensors


def _from_json(place: str, datatype: str, shape: tuple[int, ...], data: Any) -> NDArray[Any] | list[bytes | str]:
    if not isinstance(data, list):
        raise _invalid(place, "'data' must be an array, flat or nested as the shape is")
    if datatype in ("FP16", "BF16"):
        raise _invalid(place, f"{datatype} has no form in JSON; send it as binary data")
    if datatype == "BYTES":
        flat = _flat(data)
        if not all(isinstance(value, str) for value in flat):
            raise _invalid(place, "BYTES in JSON are strings")
        _check_count(place, shape, len(flat))
        return flat
    wanted = DTYPES[datatype]
    try:
        array = np.asarray(data)
        if array.size and array.dtype.kind not in _KINDS[np.dtype(wanted).kind]:
            raise TypeError
        # Out of range counts as wrong for integers; of a float it would be infinite.
        with np.errstate(over="raise"):
            exact = array.astype(wanted)
        if array.size and np.dtype(wanted).kind in "iu" and not np.array_equal(exact, array):
            raise OverflowError
    except (TypeError, ValueError, OverflowError, FloatingPointError):
        raise _invalid(place, f"'data' must hold {datatype} numbers alone, flat or nested as the shape is") from None
    _check_count(place, shape, exact.size)
    if exact.ndim > 1 and exact.shape != shape:
        raise _invalid(place, f"'data' is nested as {list(exact.shape)}, and the shape is {list(shape)}")
    return exact.reshape(shape)


_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""Kinds of numbers in JSON that may stand for a datatype's."""


def _flat(data: list[Any]) -> list[Any]:
    for _ in range(MAX_RANK):
        if not any(isinstance(value, list) for value in data):
            break
        data = [x for value in data for x in (value if isinstance(value, list) else [value])]
    return data


def _from_bytes(
    place: str, datatype: str, shape: tuple[int, ...], content: memoryview
) -> NDArray[Any] | list[bytes | str]:
    if datatype == "BYTES":
        found = _elements(place, content)
        _check_count(place, shape, len(found))
        return found
    kind = np.dtype("<u2" if datatype == "BF16" else DTYPES[datatype])
    if len(content) != math.prod(shape) * kind.itemsize:
        raise _invalid(
            place,
            f"{datatype} of shape {list(shape)} takes {math.prod(shape) * kind.itemsize} bytes, not {len(content)}",
        )
    if datatype == "BOOL":
        return (np.frombuffer(content, "u1") != 0).reshape(shape)
    array = np.frombuffer(content, kind).reshape(shape)
    # A brain float is the upper half of a float32.
    return (array.astype("<u4") << 16).view("<f4") if datatype == "BF16" else array


def _elements(place: str, content: memoryview) -> list[bytes | str]:
    found: list[bytes | str] = []
    at = 0
    while at < len(content):
        if at + 4 > len(content):
            raise _invalid(place, "the last of its BYTES is cut off")
        (length,) = struct.unpack_from("<I", content, at)
        at += 4
        if at + length > len(content):
            raise _invalid(place, f"its BYTES element {len(found)} is cut off")
        found.append(bytes(content[at : at + length]))
        at += length
    return found


def _check_count(place: str, shape: tuple[int, ...], count: int) -> None:
    if math.prod(shape) != count:
        raise _invalid(place, f"the shape {list(shape)} takes {math.prod(shape)} elements, not {count}")


def _invalid(place: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {message}", param=place, code="invalid_tensor")


def write_body(
    head: dict[str, Any], tensors: Sequence[Tensor], binary: Sequence[bool]
) -> tuple[dict[str, Any], list[bytes]]:
    """Return an answer's JSON value and the bytes that go behind it.

    Args:
        head: The JSON without its ``outputs``.
        tensors: The outputs; the elements of BYTES are text, or bytes, which are base64 in JSON.
        binary: Which of them go behind the JSON.
    """
    outputs: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for tensor, raw in zip(tensors, binary, strict=True):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if raw:
            pieces.append(_to_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            entry["data"] = _to_json(tensor)
        outputs.append(entry)
    return {**head, "outputs": outputs}, pieces


def _to_bytes(tensor: Tensor) -> bytes:
    if isinstance(tensor.values, np.ndarray):
        return np.ascontiguousarray(tensor.values, DTYPES[tensor.datatype]).tobytes()
    encoded = (v.encode() if isinstance(v, str) else v for v in tensor.values)
    return b"".join(struct.pack("<I", len(v)) + v for v in encoded)


def _to_json(tensor: Tensor) -> list[Any]:
    if isinstance(tensor.values, np.ndarray):
        return tensor.values.reshape(-1).tolist()
    return [v if isinstance(v, str) else base64.b64encode(v).decode("ascii") for v in tensor.values]
