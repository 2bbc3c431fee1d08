"""The built-in model by every way in: transformers' Auto classes, the class itself, the hub, and HTTP under load."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

import hub
from hub.cards import built_in_cards
from hub.errors import InvalidInput
from hub.reading import Source
from serving.app import create_app
from serving.config import check_settings
from serving.engine import Engine

MODEL = "tera-tiny"
RATE = 16_000


@pytest.fixture(scope="module")
def embedder() -> hub.Embedder:
    return hub.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def client():
    from fastapi.testclient import TestClient

    engine = Engine(check_settings({"models": [MODEL], "torch_threads": 1}))
    with TestClient(create_app(engine)) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        yield client


def wav(seconds: float, seed: int = 0, **changes) -> bytes:
    """A noisy glide as 16-bit WAV."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tone = 0.3 * np.sin(2 * np.pi * (120 + 40 * seed % 200) * time * (1 + 0.1 * time))
    stream = io.BytesIO()
    samples = changes.pop("samples", tone + 0.02 * generator.normal(size=len(time)))
    soundfile.write(stream, samples, RATE, format="WAV", **{"subtype": "PCM_16", **changes})
    return stream.getvalue()


def post(client, content: bytes, **fields) -> np.ndarray:
    answer = client.post(f"/v1/models/{MODEL}/embeddings", files={"file": ("a.wav", content)}, data=fields)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["data"][0]["embedding"], np.float32)


def test_every_way_in_gives_the_same_vector(embedder, client, tmp_path) -> None:
    from transformers import AutoFeatureExtractor, AutoModel

    from domains.speech.tera.modeling import TeraModel

    folder = built_in_cards()[MODEL].folder
    path = tmp_path / "a.wav"
    path.write_bytes(wav(1.3))
    expected = embedder.embed(path).vectors[0]
    samples, rate = soundfile.read(path, dtype="float32")
    batch = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=rate)
    for model in (AutoModel.from_pretrained(folder), TeraModel.from_pretrained(folder)):
        np.testing.assert_allclose(model.embed(batch)[0].numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(post(client, path.read_bytes()), expected, atol=1e-5)
    plain = {"model": MODEL, "input": {"samples": samples.tolist(), "sampling_rate": rate}}
    found = client.post("/v1/embeddings", json=plain).json()["data"][0]["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_utterance_beside_one_ten_times_longer(embedder) -> None:
    short, long = (Source.from_bytes(wav(s, i), "x.wav") for i, s in enumerate((0.8, 8.0)))
    alone = embedder.embed(short).vectors[0]
    prepared = [embedder.prepare(next(embedder.read(s)), "x") for s in (short, long)]
    np.testing.assert_allclose(embedder.forward(prepared)[0], alone, atol=1e-5)


def test_under_concurrent_load_every_caller_gets_his_own(embedder, client) -> None:
    contents = [wav(0.3 + 0.37 * (i % 12), i) for i in range(36)]
    alone = [embedder.embed(Source.from_bytes(c, "x.wav")).vectors[0] for c in contents]
    bad = [b"not a sound", wav(0.005), wav(1, samples=np.zeros((RATE, 64)) + 0.1)]

    def send(number: int):
        if number % 4 == 3:
            answer = client.post(f"/v1/models/{MODEL}/embeddings", files={"file": ("bad.wav", bad[number % len(bad)])})
            return answer.status_code
        return post(client, contents[number])

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(len(contents))))
    for number, answer in enumerate(answers):
        if number % 4 == 3:
            assert answer in (413, 415, 422)
        else:
            np.testing.assert_allclose(answer, alone[number], atol=1e-5)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def claiming(content: bytes, size: int) -> bytes:
    """The same WAV with another size in the header of its data chunk."""
    place = content.index(b"data") + 4
    return content[:place] + size.to_bytes(4, "little") + content[place + 4 :]


def flac(content: bytes) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, soundfile.read(io.BytesIO(content))[0], RATE, format="FLAC")
    return stream.getvalue()


def spoilt(value: float) -> bytes:
    samples = np.full(RATE, 0.1)
    samples[100] = value
    return wav(1, samples=samples, subtype="FLOAT")


BAD = {
    "empty": b"",
    "header only": wav(1)[:44],
    "truncated WAV": truncated(wav(1)),
    "truncated FLAC": truncated(flac(wav(1))),
    "NaN": spoilt(np.nan),
    "infinite": spoilt(np.inf),
    "no samples": wav(0),
    "5 ms": wav(0.005),
    "64 channels": wav(1, samples=np.full((RATE, 64), 0.1)),
    "text": b"This is not a recording at all, whatever its name says. " * 40,
    "2 GB claimed": claiming(wav(1), 2**31),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_name(embedder, client, name) -> None:
    with pytest.raises(InvalidInput) as caught:
        embedder.embed(Source.from_bytes(BAD[name], "clip.wav"))
    assert str(caught.value).startswith("clip.wav: ")
    answer = client.post(f"/v1/models/{MODEL}/embeddings", files={"file": ("clip.wav", BAD[name])})
    assert answer.status_code in (413, 415, 422), answer.text
    assert caught.value.message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{not json", 400, None),
        (b'{"model": "tera-tiny", "input": {"data": "%%%"}}', 422, "input"),
        (b'{"model": "no-such", "input": {"data": "AAAA"}}', 404, "model"),
        (b'{"model": "tera-tiny", "input": {"samples": [0.1, NaN], "sampling_rate": 16000}}', 400, None),
        (b'{"model": "tera-tiny", "input": {"samples": [0.1, 0.2]}}', 422, "input"),
        (b'{"model": "tera-tiny", "input": "/etc/passwd"}', 422, "input"),
    ],
)
def test_bad_requests_are_refused_by_name(client, body, status, param) -> None:
    answer = client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    if param is not None:
        assert error["param"].startswith(param)


def test_an_unknown_pooling_is_refused(client) -> None:
    answer = client.post(
        f"/v1/models/{MODEL}/embeddings", files={"file": ("a.wav", wav(1))}, data={"pooling": "median"}
    )
    assert answer.status_code == 422 and answer.json()["error"]["param"] == "pooling"


def test_the_card_tells_what_was_measured() -> None:
    text = Path(built_in_cards()[MODEL].folder / "README.md").read_text(encoding="utf-8")
    for word in ("random twin", "baseline", "CC BY-SA", "fmhub pretrain tera/tiny", "fmhub evaluate tera-tiny"):
        assert word in text, word
