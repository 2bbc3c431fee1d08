"""Names to checkpoints, and back to a Hub: against a local server that speaks the Hub's routes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import hub
from hub.cards import Card, built_in_cards
from hub.errors import HubError, InvalidCheckpoint, UnknownModel
from hub.neighbourhood import FILE
from hub.publishing import check_publishable, push

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Mirror(BaseHTTPRequestHandler):
    """The Hub's routes over a dictionary of repositories; remembers what was asked."""

    repositories: dict[str, dict[str, bytes]] = {}
    requests: list[str] = []

    def log_message(self, *_: object) -> None: ...

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.requests.append(path)
        parts = path.strip("/").split("/")
        api = parts[:2] in (["api", "models"], ["api", "datasets"])
        kind = "datasets/" if "datasets" in parts[:2] else ""
        parts = parts[1:] if parts[0] == "datasets" else parts
        name = kind + "/".join(parts[2:4] if api else parts[:2])
        files = self.repositories.get(name)
        if files is None:
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        if api and "tree" not in parts:
            if parts[4:5] == ["revision"] and parts[5] not in ("main", COMMIT):
                return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            return self.json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]})
        if api:
            return self.json([{"type": "file", "path": f, "size": len(c), "oid": "0"} for f, c in files.items()])
        content = files.get("/".join(parts[4:]))
        if content is None:
            return self.answer(404, X_Error_Code="EntryNotFound")
        self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        self.requests.append(path)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if wanted["organization"] == "forbidden":
                return self.answer(403, b'{"error": "no access"}')
            self.repositories.setdefault(name, {})
            return self.json({"url": f"http://{self.headers['Host']}/{name}"})
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        name = "/".join(path.split("/")[3:5])
        if "preupload" in path:
            files = json.loads(body)["files"]
            return self.json(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        self.json({"commitUrl": f"http://{self.headers['Host']}/{name}", "commitOid": COMMIT, "success": True})


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    Mirror.repositories, Mirror.requests = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield Mirror
    server.shutdown()


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture
def authors_folder(toy_checkpoint, tmp_path, monkeypatch) -> Path:
    """The toy checkpoint as its authors publish it: another model_type, a pickle of tensors, no processor."""
    monkeypatch.setenv("FMHUB_CACHE", str(tmp_path / "fmhub-cache"))
    folder = tmp_path / "toy-v1"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "toyAuthors", "dataloader_num_workers": 3}))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nWords of the authors.\n")
    torch.save(hub.from_pretrained(toy_checkpoint).model.state_dict(), folder / "pytorch_model.bin")
    return folder


def test_a_folder_in_its_authors_layout_is_converted_once(authors_folder, toy_checkpoint, toy_files, tmp_path) -> None:
    embedder = hub.from_pretrained(authors_folder)
    expected = hub.from_pretrained(toy_checkpoint).embed(toy_files).vectors
    np.testing.assert_array_equal(embedder.embed(toy_files).vectors, expected)
    assert embedder.name == "toy-v1" and embedder.card.metadata["license"] == "cc-by-nc-4.0"
    (kept,) = (tmp_path / "fmhub-cache").iterdir()
    (kept / "config.json").touch()
    before = (kept / "model.safetensors").stat().st_mtime_ns
    hub.from_pretrained(authors_folder)
    assert (kept / "model.safetensors").stat().st_mtime_ns == before
    # Other weights under the same name are another checkpoint.
    torch.save({"input.bias": torch.zeros(3)}, authors_folder / "pytorch_model.bin")
    with pytest.raises(RuntimeError, match="Missing key"):
        hub.from_pretrained(authors_folder)


def test_a_repository_in_its_authors_layout_is_converted(mirror, authors_folder, toy_checkpoint, toy_files) -> None:
    mirror.repositories["authors/toy"] = {
        **files_of(authors_folder),
        "code.py": b"raise SystemExit",
        "flax.msgpack": b"x",
    }
    embedder = hub.from_pretrained("authors/toy")
    assert embedder.revision == COMMIT and embedder.name == "authors/toy"
    expected = hub.from_pretrained(toy_checkpoint).embed(toy_files).vectors
    np.testing.assert_array_equal(embedder.embed(toy_files).vectors, expected)
    assert not [path for path in mirror.requests if path.endswith((".py", ".msgpack"))]


def test_a_repository_loads_as_its_folder_does(mirror, toy_checkpoint, toy_files) -> None:
    mirror.repositories["lab/toy"] = {**files_of(toy_checkpoint), "evil.bin": b"x", "code.py": b"raise SystemExit"}
    embedder = hub.from_pretrained("lab/toy")
    assert embedder.revision == COMMIT and embedder.name == "lab/toy"
    np.testing.assert_array_equal(
        embedder.embed(toy_files).vectors, hub.from_pretrained(toy_checkpoint).embed(toy_files).vectors
    )
    assert not [r for r in mirror.requests if r.endswith((".py", ".bin"))]


def test_what_a_hub_does_not_have_is_said_so(mirror, toy_checkpoint) -> None:
    with pytest.raises(UnknownModel, match="no such repository"):
        hub.from_pretrained("lab/absent")
    mirror.repositories["lab/toy"] = files_of(toy_checkpoint)
    with pytest.raises(UnknownModel, match="no revision 'v9'"):
        hub.from_pretrained("lab/toy", revision="v9")
    mirror.repositories["lab/pickle"] = {"config.json": b'{"model_type": "toy_sequences"}', "model.bin": b"x"}
    with pytest.raises(InvalidCheckpoint, match="fmhub convert"):
        hub.from_pretrained("lab/pickle")


def test_publishing_and_loading_back(mirror, toy_checkpoint, toy_files, tmp_path) -> None:
    (toy_checkpoint / "checkpoint-10").mkdir(exist_ok=True)
    (toy_checkpoint / "checkpoint-10" / "optimizer.pt").write_bytes(b"x")
    address = push(toy_checkpoint, "lab/published")
    assert address.endswith("/lab/published")
    assert set(mirror.repositories["lab/published"]) - {".gitattributes"} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
    }
    np.testing.assert_array_equal(
        hub.from_pretrained("lab/published").embed(toy_files).vectors,
        hub.from_pretrained(toy_checkpoint).embed(toy_files).vectors,
    )
    with pytest.raises(HubError, match="could not be published"):
        push(toy_checkpoint, "forbidden/x")


def test_only_whole_checkpoints_are_published(toy_checkpoint, tmp_path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"lacks config\.json"):
        check_publishable(tmp_path)
    for name, content in files_of(toy_checkpoint).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "README.md").write_text("# no front matter")
    with pytest.raises(InvalidCheckpoint, match="lacks 'license'"):
        check_publishable(tmp_path)


@pytest.mark.parametrize("name", sorted(built_in_cards()))
def test_built_in_cards_are_complete(name) -> None:
    card = built_in_cards()[name]
    assert card.summary and card.domain and card.system
    for key in ("license", "library_name", "pipeline_tag", "tags"):
        assert card.metadata.get(key), key
    if card.has_weights:
        assert check_publishable(card.folder)
        sizes = {p.name: p.stat().st_size for p in card.folder.iterdir()}
        assert sizes.pop(FILE, 0) <= 330_000 and sum(sizes.values()) <= 4 * 2**20
        assert card.metadata["model-index"][0]["results"]
        return
    assert card.source.get("instructions")
    if card.fetched:
        assert len(bytes.fromhex(card.source["sha256"])) == 32
        needed = {"wheel": ("package", "version", "member"), "url": ("url",), "hub": ("repository", "file")}
        assert all(card.source.get(name) for name in needed[card.source["kind"]])
    else:
        with pytest.raises(UnknownModel, match="not shipped"):
            hub.from_pretrained(name)


def test_a_card_is_read_back_as_written(tmp_path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\nfmhub: {domain: d, system: s}\n---\n# T\n\nOne. Two.\n")
    card = Card.read(tmp_path)
    assert (card.domain, card.system, card.summary) == ("d", "s", "One.")
    (tmp_path / "README.md").write_text("---\n: : :\n---\n")
    with pytest.raises(InvalidCheckpoint, match="not YAML"):
        Card.read(tmp_path)


def test_a_dataset_repository_is_trained_on(mirror, toy, tmp_path) -> None:
    from hub.errors import InvalidManifest
    from hub.training.pretrain import pretrain
    from hub.training.recipe import load_recipe

    lines = [{"bytes": f"a: {n} 1 2 3".encode(), "path": f"{n}.num"} for n in range(6)]
    shards = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}.parquet"
        pq.write_table(pa.table({"file": lines if split == "train" else lines[:1]}), path)
        shards[f"data/{split}-00000-of-00001.parquet"] = path.read_bytes()
    mirror.repositories["datasets/lab/numbers"] = {**shards, "script.py": b"raise SystemExit", "README.md": b"numbers"}
    recipe = load_recipe("sequences/tiny").with_training(steps=2, save_every=2)
    run = pretrain(recipe, "lab/numbers", tmp_path / "run")
    entries = json.loads((run / "data_index.json").read_text())
    assert len(entries) == 6 and all("train-00000" in e["file"] for e in entries)
    assert not [r for r in mirror.requests if r.endswith(".py")]
    with pytest.raises(InvalidManifest, match=r"lab/absent: no such folder or file, and no dataset repository"):
        pretrain(recipe, "lab/absent", tmp_path / "none")
