"""Requests to the application in this process, and what is looked for in its answers."""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

import httpx
import numpy as np
from arithmetic import file_of
from conftest import running_app as threaded_app

from serving.schemas import ErrorAnswer

# As the service runs by default.
running_app = partial(threaded_app, reader_workers=1)
FILE = base64.b64encode(file_of([1, 2, 3], [4, 5])).decode()


def matrix(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([e["embedding"] for e in answer.json()["data"]], np.float32)


def problem(answer: httpx.Response) -> dict[str, Any]:
    ErrorAnswer.model_validate_json(answer.content)
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
    return answer.json()["error"]


async def post(client: httpx.AsyncClient, value: Any, **options: Any) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": "dummy", "input": value, **options})
