"""The clients that others use, against a real server: a process of its own, a real model, a key."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_metrics
from safetensors.torch import load_file

import hub

ROOT = Path(__file__).parents[2]

KEY, TERA_KEY = "fm_real", "fm_tera"

CONFIG = """
models: [tera-tiny, org/eeg=eegformer-tiny]
hub_endpoint: true
port: 0
torch_threads: 1
keys:
- {{name: all, hash: 'sha256:{0}'}}
- {{name: tera, hash: 'sha256:{1}', models: [tera-tiny]}}
"""


@dataclass
class Server:
    url: str
    home: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}"}

    def python(self, code: str, key: str = KEY) -> str:
        """What a program prints that knows of this endpoint alone."""
        environment = {**os.environ, "HF_ENDPOINT": self.url, "HF_TOKEN": key, "HF_HOME": str(self.home)}
        environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=self.home, timeout=120
        )
        assert found.returncode == 0, found.stderr
        return found.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    config = folder / "service.yaml"
    config.write_text(CONFIG.format(*(hashlib.sha256(key.encode()).hexdigest() for key in (KEY, TERA_KEY))))
    process = subprocess.Popen(
        [sys.executable, "-m", "hub.cli", "serve", "--backend", "local", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if "curl" in line:
                break
        found = re.search(r"at (http://\S+) ", output)
        assert found is not None, output
        yield Server(found[1], folder)
    finally:
        process.terminate()
        rest = process.communicate(timeout=30)[0]
    assert process.returncode == 0 and "Traceback" not in rest, rest


@pytest.fixture(scope="module")
def recording() -> tuple[np.ndarray, np.ndarray]:
    """A second of sound, and the embedding that Python gives it."""
    samples = np.random.default_rng(0).normal(size=16_000).astype(np.float32) * 0.1
    embedder = hub.from_pretrained("tera-tiny", device="cpu")
    return samples, embedder.embed([{"samples": samples, "sampling_rate": 16_000}]).vectors[0]


def test_openai(server: Server, recording: Any) -> None:
    samples, wanted = recording
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    assert [m.id for m in client.models.list()] == ["tera-tiny", "org/eeg"]
    assert client.models.retrieve("org/eeg").owned_by == "org"
    value = {"samples": samples.tolist(), "sampling_rate": 16_000}
    for form in ("base64", "float"):
        answer = client.embeddings.create(model="tera-tiny", input=[value, value], encoding_format=form)  # type: ignore
        assert len(answer.data) == 2 and answer.usage.total_tokens > 0
        vector = answer.data[1].embedding
        vector = np.frombuffer(base64.b64decode(vector), "<f4") if isinstance(vector, str) else np.array(vector)
        np.testing.assert_allclose(vector, wanted, atol=1e-4)
    short = client.embeddings.create(model="tera-tiny", input=[value], dimensions=8).data[0].embedding  # type: ignore
    np.testing.assert_allclose(short, wanted[:8] / np.linalg.norm(wanted[:8]), atol=1e-5)
    for key, model, kind in (
        ("fm_wrong", "tera-tiny", openai.AuthenticationError),
        (TERA_KEY, "org/eeg", openai.PermissionDeniedError),
        (KEY, "nope", openai.NotFoundError),
    ):
        with pytest.raises(kind):
            client.with_options(api_key=key).embeddings.create(model=model, input="x")


def test_openai_async(server: Server, recording: Any) -> None:
    samples, wanted = recording

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            value = {"samples": samples.tolist(), "sampling_rate": 16_000}
            made = [client.embeddings.create(model="tera-tiny", input=[value]) for _ in range(4)]  # type: ignore
            for answer in await asyncio.gather(*made):
                np.testing.assert_allclose(answer.data[0].embedding, wanted, atol=1e-4)

    asyncio.run(main())


TRITON = """
import asyncio, json, sys
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

host, key = sys.argv[1:]
# The client leaves the length of its JSON in the headers that it is given: each call gets its own.
fresh = {"Authorization": "Bearer " + key}.copy
samples = np.load("samples.npy")
wanted = np.load("wanted.npy")
wave = open("some.wav", "rb").read()


def tensors(module, kind, binary):
    def tensor(name, datatype, values):
        found = module.InferInput(name, list(values.shape), datatype)
        return found.set_data_from_numpy(values, binary_data=binary)

    if kind == "file":
        names = tensor("filename", "BYTES", np.array([b"some.wav"], object))
        return [tensor("file", "BYTES", np.array([wave], object)), names]
    if kind == "INT16":
        values = tensor("samples", "INT16", np.round(samples * 32768).astype(np.int16)[None])
    else:
        values = tensor("samples", kind, samples.astype({"FP32": "f4", "FP64": "f8"}[kind])[None])
    return [values, tensor("sampling_rate", "INT32", np.array([16000], np.int32))]


def outputs(module, binary):
    return [module.InferRequestedOutput(name, binary_data=binary) for name in ("embedding", "item_input", "item_key")]


def check(result, tolerance):
    found = result.as_numpy("embedding")
    assert found.shape == (1, len(wanted)) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], wanted, atol=tolerance)
    assert result.as_numpy("item_input").tolist() == [0] and result.as_numpy("item_key").size == 1
    return result.get_response()["parameters"]["embedding_space"]


CASES = [("FP32", True, 1e-4), ("FP32", False, 1e-4), ("FP64", True, 1e-4), ("INT16", True, 2e-2), ("file", True, 2e-2)]

client = triton.InferenceServerClient(host)
assert client.is_server_live(headers=fresh()) and client.is_server_ready()
assert client.is_model_ready("tera-tiny", headers=fresh()) and client.is_model_ready("org/eeg", headers=fresh())
assert not client.is_model_ready("nope", headers=fresh())
assert client.get_server_metadata(headers=fresh())["name"] == "fmhub"
facts = client.get_model_metadata("org/eeg", headers=fresh())
assert facts["name"] == "org/eeg"
version = client.get_model_metadata("tera-tiny", headers=fresh())["versions"][0]
assert client.get_model_config("tera-tiny", headers=fresh())["max_batch_size"] == 0
assert [m["name"] for m in client.get_model_repository_index(headers=fresh())] == ["tera-tiny", "org/eeg"]
for kind, binary, tolerance in CASES:
    found = client.infer(
        "tera-tiny", tensors(triton, kind, binary), outputs=outputs(triton, binary), headers=fresh(), request_id="mine",
        model_version=version,
    )
    assert check(found, tolerance) == version and found.get_response()["id"] == "mine"
everything = client.infer("tera-tiny", tensors(triton, "FP32", True), headers=fresh())
check(everything, 1e-4)
shared = triton.InferInput("samples", [1, 16000], "FP32").set_data_from_numpy(samples[None])
found = client.infer("tera-tiny", [shared], headers=fresh(), parameters={"sampling_rate": 16000, "dimensions": 8})
np.testing.assert_allclose(found.as_numpy("embedding")[0], wanted[:8] / np.linalg.norm(wanted[:8]), atol=1e-5)
eeg = triton.InferInput("signal", [2, 19, 2000], "FP32")
eeg.set_data_from_numpy((20 * np.random.default_rng(0).normal(size=(2, 19, 2000))).astype(np.float32))
found = client.infer("org/eeg", [eeg], headers=fresh(), parameters={"sampling_rate": 250, "unit": "uV"}, timeout=10**7)
assert found.as_numpy("embedding").shape[0] == 2 and found.as_numpy("item_input").tolist() == [0, 1]
waiting = [client.async_infer("tera-tiny", tensors(triton, "FP32", True), headers=fresh()) for _ in range(3)]
for one in waiting:
    check(one.get_result(), 1e-4)
stats = client.get_inference_statistics("tera-tiny", headers=fresh())["model_stats"][0]
assert stats["inference_count"] >= 10


def refused(status, words, ask):
    try:
        ask()
    except InferenceServerException as error:
        assert error.status() == status and words in error.message(), error
    else:
        raise AssertionError(words)


short = triton.InferInput("samples", [1, 3], "FP32").set_data_from_numpy(samples[None, :3])
rate = {"sampling_rate": 16000}
refused("422", "input[0]", lambda: client.infer("tera-tiny", [short], headers=fresh(), parameters=rate))
refused("404", "no model 'nope'", lambda: client.infer("nope", [short], headers=fresh()))
refused("401", "not valid", lambda: client.infer("tera-tiny", [short], headers={"Authorization": "Bearer x"}))
refused("404", "no version '1'", lambda: client.infer("tera-tiny", [short], model_version="1", headers=fresh()))
refused("404", "no route", lambda: client.load_model("tera-tiny", headers=fresh()))
refused("404", "no route", lambda: client.get_system_shared_memory_status(headers=fresh()))
refused(
    "415", "Content-Encoding",
    lambda: client.infer("tera-tiny", [short], headers=fresh(), request_compression_algorithm="gzip"),
)


async def main():
    async with triton_aio.InferenceServerClient(host) as client:
        assert await client.is_server_live() and await client.is_model_ready("org/eeg", headers=fresh())
        for kind, binary, tolerance in CASES:
            check(
                await client.infer(
                    "tera-tiny", tensors(triton_aio, kind, binary), outputs=outputs(triton_aio, binary), headers=fresh()
                ),
                tolerance,
            )
        try:
            await client.infer("nope", [shared], headers=fresh())
        except InferenceServerException as error:
            assert "no model 'nope'" in error.message()
        else:
            raise AssertionError


asyncio.run(main())
import socket

assert socket.socket.__module__ == "socket"
print("all")
"""


def test_triton(server: Server, recording: Any) -> None:
    pytest.importorskip("tritonclient.http")
    soundfile = pytest.importorskip("soundfile")
    samples, wanted = recording
    np.save(server.home / "samples.npy", samples)
    np.save(server.home / "wanted.npy", wanted)
    soundfile.write(server.home / "some.wav", samples, 16_000, subtype="PCM_16")
    # In a process of its own, as its client brings gevent.
    host = server.url.removeprefix("http://")
    found = subprocess.run(
        [sys.executable, "-c", TRITON, host, KEY], capture_output=True, text=True, cwd=server.home, timeout=120
    )
    assert found.stdout == "all\n", found.stderr


AUTO = """
import json
import domains.speech
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from safetensors.torch import save_file

model = AutoModel.from_pretrained("tera-tiny")
save_file(model.state_dict(), "fetched.safetensors")
config, extractor = AutoConfig.from_pretrained("tera-tiny"), AutoFeatureExtractor.from_pretrained("tera-tiny")
import hub
embedder = hub.from_pretrained("org/eeg")
kinds = [type(part).__name__ for part in (model, config, extractor)]
print(json.dumps([kinds, config.hidden_size, extractor.to_dict(), embedder.system.name, embedder.revision]))
"""


def test_auto_classes(server: Server) -> None:
    kinds, hidden, extractor, system, revision = json.loads(server.python(AUTO))
    embedder = hub.from_pretrained("tera-tiny", device="cpu")
    assert kinds == [type(p).__name__ for p in (embedder.model, embedder.model.config, embedder.processor)]
    assert hidden == embedder.model.config.hidden_size
    assert extractor == json.loads(json.dumps(embedder.processor.to_dict()))
    fetched, tensors = load_file(server.home / "fetched.safetensors"), embedder.model.state_dict()
    assert fetched.keys() == tensors.keys() and all(torch.equal(fetched[n], tensors[n]) for n in tensors)
    cached = server.home / "hub" / "models--org--eeg"
    assert system == "eegformer" and (cached / "snapshots" / revision).is_dir()


def test_huggingface_hub(server: Server, tmp_path: Path) -> None:
    card = ROOT / "model_cards" / "tera-tiny"
    options: dict[str, Any] = {"endpoint": server.url, "token": KEY}
    api = HfApi(**options)
    facts = api.model_info("tera-tiny")
    names = ["README.md", "config.json", "model.safetensors", "neighbourhood.safetensors", "preprocessor_config.json"]
    # Not the recipe nor the picture that lie beside them.
    assert facts.siblings is not None and [s.rfilename for s in facts.siblings] == names
    commit = facts.sha
    assert commit is not None and re.fullmatch("[0-9a-f]{40}", commit)
    assert api.model_info("tera-tiny", revision=commit).sha == commit
    assert sorted(f.path for f in api.list_repo_tree("tera-tiny", recursive=True)) == names
    (weights,) = api.get_paths_info("tera-tiny", ["model.safetensors", "nope"])
    assert weights.lfs.sha256 == hashlib.sha256((card / "model.safetensors").read_bytes()).hexdigest()  # type: ignore
    folder = Path(snapshot_download("tera-tiny", cache_dir=tmp_path, **options))
    assert folder.name == commit and sorted(p.name for p in folder.iterdir()) == names
    for name in names:
        assert (folder / name).read_bytes() == (card / name).read_bytes()
    local = snapshot_download("org/eeg", local_dir=tmp_path / "local", revision="main", **options)
    assert (Path(local) / "model.safetensors").exists()
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("tera-tiny", "recipe.yaml", cache_dir=tmp_path, **options)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("tera-tiny", "config.json", revision="v9", cache_dir=tmp_path, **options)
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=server.url, token="fm_wrong").model_info("tera-tiny")
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(endpoint=server.url, token=TERA_KEY).model_info("org/eeg")
    command = "import sys; from huggingface_hub.cli.hf import main; sys.argv = ['hf', 'download', 'tera-tiny']; main()"
    assert commit in server.python(command)


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_prometheus(server: Server, accept: str) -> None:
    path = "/v1/models/org/eeg"
    assert httpx.get(server.url + path, headers=server.headers).status_code == 200
    answer = httpx.get(f"{server.url}/metrics", headers={**server.headers, "Accept": accept})
    parse = open_metrics if accept else plain_metrics
    assert answer.headers["content-type"].startswith(accept.partition(";")[0] or "text/plain")
    families = {family.name: family for family in parse(answer.text)}
    requests = [s for s in families["fmhub_requests"].samples if s.name == "fmhub_requests_total"]
    labels = {"route": "/v1/models/{model}", "model": "", "status": "200"}
    assert [s.value >= 1 for s in requests if s.labels == labels] == [True]
    states = {(s.labels["model"], s.labels["state"]): s.value for s in families["fmhub_model_state"].samples}
    assert states[("tera-tiny", "ready")] == states[("org/eeg", "ready")] == 1
    assert families["fmhub_request_duration_seconds"].type == "histogram"
