"""Every file of every ``DOMAIN/malformed/manifest.csv`` through the reader and through HTTP.

``pytest tests/bad_input --data-root DIR``; the manifest says ``reject``, ``accept`` or ``either`` for each file.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import hub
from hub.cards import list_models
from hub.domain import domains
from hub.errors import InvalidInput
from serving.app import create_app
from serving.config import check_settings
from serving.engine import Engine

DEFAULT_ROOT = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@dataclass(frozen=True)
class Case:
    domain: str
    path: Path
    expect: str
    why: str


def cases(root: Path) -> Iterator[Case]:
    for manifest in sorted(root.glob("*/malformed/manifest.csv")):
        with manifest.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                yield Case(manifest.parts[-3], manifest.parent / row["file"], row["expect"], row["why"])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--data-root")
    parameters = []
    for case in cases((given or DEFAULT_ROOT).resolve()):
        served = list_models(case.domain) if case.domain in domains() else []
        marks = [] if any(c.has_weights for c in served) else [pytest.mark.skip(reason=f"no {case.domain} model yet")]
        parameters.append(pytest.param(case, marks=marks, id=f"{case.domain}/{case.path.name}"))
    if not parameters:
        reason = "no malformed files beside this checkout"
        assert given is None, f"{given} holds no DOMAIN/malformed/manifest.csv"
        parameters = [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    metafunc.parametrize("case", parameters)


@pytest.fixture(scope="module")
def embedders() -> dict[str, hub.Embedder]:
    return {}


def embedder_of(case: Case, embedders: dict[str, hub.Embedder]) -> hub.Embedder:
    if case.domain not in embedders:
        # Of several systems the domain's first: the manifest is about files that it takes.
        order = list(domains()[case.domain].systems)
        ready = [c for c in list_models(case.domain) if c.has_weights]
        name = min(ready, key=lambda c: order.index(c.system)).name
        embedders[case.domain] = hub.from_pretrained(name)
    return embedders[case.domain]


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    from fastapi.testclient import TestClient

    names = [c.name for c in list_models() if c.has_weights]
    if not names:
        pytest.skip("no built-in model")
    engine = Engine(check_settings({"models": names, "torch_threads": 1}))
    with TestClient(create_app(engine)) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        yield client


def test_reader(case: Case, embedders) -> None:
    embedder = embedder_of(case, embedders)
    try:
        result = embedder.embed(case.path)
    except InvalidInput as error:
        assert case.expect != "accept", f"{case.why}: refused with {error}"
        assert str(error).startswith(str(case.path)) and len(error.message) > 10
        return
    assert case.expect != "reject", f"{case.why}: accepted"
    assert len(result) and np.isfinite(result.vectors).all()
    if "flag" in case.why:
        assert any(result.warnings), "accepted without the warning that was asked for"


def test_http(case: Case, embedders, client) -> None:
    name = embedder_of(case, embedders).name
    with case.path.open("rb") as stream:
        answer = client.post(f"/v1/models/{name}/embeddings", files={"file": (case.path.name, stream)})
    body = answer.json()
    if answer.status_code == 200:
        assert case.expect != "reject", case.why
        assert all(np.isfinite(entry["embedding"]).all() for entry in body["data"])
    else:
        assert case.expect != "accept", f"{case.why}: {body}"
        assert answer.status_code in (400, 413, 415, 422)
        assert set(body["error"]) == {"type", "message", "param", "code"}
        assert "Traceback" not in answer.text and "/" not in body["error"]["message"].split(":")[0]
