"""Requests that must be refused: what is wrong with them, the status, and what the message has to name."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import soundfile

import hub
from benchmarks.serving.traffic import File
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Source

MAX_BODY_BYTES = 24 * 1024 * 1024
"""Of the server that gets mixed traffic: above its largest good file."""

_BOUNDARY = "fmhub-mixed-0123456789"


@dataclass(frozen=True)
class Request:
    """A request as it is sent.

    Attributes:
        path: Of its route.
        content_type: Of the body.
        body: It.
        key: Which bearer key: ``"good"``, ``"wrong"`` or ``"none"``.
    """

    path: str
    content_type: str
    body: bytes = field(repr=False)
    key: str = "good"


@dataclass(frozen=True)
class Bad:
    """A request that must be refused.

    Attributes:
        kind: What is wrong.
        request: It.
        status: That it must get.
        named: What message or ``param`` must hold.
    """

    kind: str
    request: Request
    status: int
    named: str


def upload(model: str, files: Iterable[tuple[str, bytes]], fields: Mapping[str, str] | None = None) -> Request:
    """Return an upload of files by name."""
    parts = []
    for name, value in (fields or {}).items():
        parts.append(f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    for name, content in files:
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        parts += [head.encode(), content, b"\r\n"]
    body = b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])
    return Request(f"/v1/models/{model}/embeddings", f"multipart/form-data; boundary={_BOUNDARY}", body)


def bad_requests(files: Mapping[str, list[File]]) -> list[Bad]:
    """Return bad requests of many kinds, for all models.

    What a damaged file must get is what Python says of it, so that the list cannot go stale.

    Args:
        files: Good files by model.
    """
    found = list(_general(next(iter(files)), next(iter(files.values()))[0]))
    for model, good in files.items():
        embedder = hub.from_pretrained(model)
        for kind, name, content in _damaged(good):
            status = _status(embedder, content, name)
            if status is None:
                continue  # a format that has no end mark, such as lines of text, can be cut anywhere
            found.append(Bad(kind, upload(model, [(name, content)]), status, name))
            beside = [(good[0].name, good[0].content), (name, content)]
            found.append(Bad(f"{kind}, beside a good one", upload(model, beside), status, name))
    return found


def _damaged(good: list[File]) -> Iterator[tuple[str, str, bytes]]:
    """Yield what is wrong, a name and the content of bad files for one model."""
    small = good[1]
    suffix = small.name.rpartition(".")[2]
    yield "empty", f"empty.{suffix}", b""
    yield "truncated", f"truncated.{suffix}", small.content[: len(small.content) * 2 // 3]
    yield "wrong format", f"report.{suffix}", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n" + bytes(200)
    yield "noise", f"noise.{suffix}", np.random.default_rng(0).bytes(5_000)
    yield "header alone", f"header.{suffix}", small.content[:40]
    if suffix == "wav":
        buffer = io.BytesIO()
        signal = np.zeros(8_000, np.float32)
        signal[4_000] = np.nan
        soundfile.write(buffer, signal, 16_000, format="WAV", subtype="FLOAT")
        yield "NaN", "nan.wav", buffer.getvalue()
    if suffix == "npy":
        buffer = io.BytesIO()
        np.save(buffer, np.full((64, 64), np.nan, np.complex64))
        yield "NaN", "nan.npy", buffer.getvalue()


def _status(embedder: hub.Embedder, content: bytes, name: str) -> int | None:
    """Return the status that an input must get, by what Python says of it; ``None`` when it is good."""
    if not content:
        return 422
    try:
        if len(embedder.embed(Source.from_bytes(content, name), on_error="collect")):
            return None  # one bad sample of many stands in ``errors``
        embedder.embed(Source.from_bytes(content, name))
    except UnsupportedFormat:
        return 415
    except TooLarge:
        return 413
    except InvalidInput:
        return 422
    return None


def _general(model: str, good: File) -> Iterator[Bad]:
    """Yield requests that are bad whatever the model."""
    fine = upload(model, [(good.name, good.content)])
    path = fine.path

    def as_json(text: str) -> Request:
        return Request(path, "application/json", text.encode())

    yield Bad("wrong model", upload("no-such-model", [(good.name, good.content)]), 404, "no-such-model")
    yield Bad("wrong key", Request(path, fine.content_type, fine.body, "wrong"), 401, "key")
    yield Bad("no key", Request(path, fine.content_type, fine.body, "none"), 401, "Bearer")
    yield Bad("oversize body", upload(model, [("huge.bin", bytes(MAX_BODY_BYTES))]), 413, str(MAX_BODY_BYTES))
    yield Bad("no file", upload(model, []), 422, "file")
    yield Bad("unknown field", upload(model, [(good.name, good.content)], {"polling": "mean"}), 422, "polling")
    yield Bad("unknown pooling", upload(model, [(good.name, good.content)], {"pooling": "best"}), 422, "best")
    yield Bad("cut multipart", Request(path, fine.content_type, fine.body[: len(fine.body) // 2]), 400, "multipart")
    yield Bad("wrong content type", Request(path, "text/plain", b"hello"), 415, "text/plain")
    yield Bad("broken JSON", as_json('{"input": ['), 400, "JSON")
    yield Bad("NaN in JSON", as_json('{"input": [NaN]}'), 400, "NaN")
    yield Bad("no input", as_json('{"input": []}'), 422, "input")
    yield Bad("unknown key in JSON", as_json('{"input": ["x"], "poling": 1}'), 422, "poling")
    yield Bad("bad base64", as_json(json.dumps({"input": [{"data": "%%%"}]})), 422, "input[0]")
    yield Bad("nested too deeply", as_json("[" * 50_000), 400, "nested")
