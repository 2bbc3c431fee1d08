"""The page's files, and the routes behind it: pictures, examples, neighbours."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from hub.cards import list_models
from hub.domain import domains
from hub.modeling import TaskFile
from hub.reading import Sample, Source
from serving.app import create_app
from serving.config import check_settings
from serving.engine import Engine
from serving.keys import hash_of, new_key
from serving.page import ASSETS
from serving.playground.examples import Examples

DOMAINS = sorted(name for name, domain in domains().items() if "preview" in domain.references)
MODEL = "graphmae-mol-tiny"
KEY = new_key()


@asynccontextmanager
async def service(*models: str, **values: Any) -> Any:
    """The real models in process: the dummy ones have neither pictures nor examples."""
    engine = Engine(check_settings({"models": list(models), "torch_threads": 1, "reader_workers": 1, **values}))
    await engine.wait_ready()
    transport = httpx.ASGITransport(app=create_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=30) as client:
        yield client
    await engine.close()


def check_picture(file: TaskFile, largest: int = 300_000) -> None:
    assert 500 < len(file.content) < largest
    if file.media_type == "image/svg+xml":
        text = file.content.decode()
        assert text.lstrip().startswith("<?xml") and "</svg>" in text
        assert not re.search(r"<script|<foreignObject|javascript:|\son\w+\s*=", text)
        # Nothing is fetched from elsewhere: links are to parts of the picture itself.
        assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', text))
    else:
        assert file.media_type == "image/png"
        image = Image.open(io.BytesIO(file.content))
        image.verify()
        assert 40 < image.width <= 800 and 40 < image.height <= 800


# --- pictures of each domain ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=DOMAINS)
def written(request: Any, tmp_path_factory: Any) -> tuple[str, list[Path]]:
    domain = domains()[request.param]
    if domain.missing:
        pytest.skip(f"{', '.join(domain.missing)} not installed")
    return domain.name, domain.load("samples")(tmp_path_factory.mktemp(domain.name))


def samples_of(name: str, sources: list[Source]) -> Iterator[Sample]:
    reader = domains()[name].load("reader")()
    for source in sources:
        yield next(s for s in reader.read(source) if s.error is None)


def test_every_sample_file_and_example_can_be_drawn(written: Any) -> None:
    name, paths = written
    preview, examples = domains()[name].load("preview"), domains()[name].load("examples")()
    assert len({e.name for e in examples}) == len(examples) >= 12
    assert sum(len(e.content or b"") for e in examples) < 4_000_000
    drawn = set()
    for sample in samples_of(name, [*map(Source.from_path, paths), *examples[::9]]):
        picture = preview(sample)
        check_picture(picture)
        drawn.add(picture.content)
    check_picture(preview(sample, small=True), 30_000)
    assert len(drawn) > len(paths)  # one picture each, not one for all


def test_examples_are_the_same_on_every_call(written: Any) -> None:
    write = domains()[written[0]].load("examples")
    assert [(e.name, e.content) for e in write()] == [(e.name, e.content) for e in write()]


def huge(name: str) -> Sample:
    """A sample near the size of what a request may hold; for captures and molecules there is nothing of the kind."""
    domain = domains()[name]
    noise = np.random.default_rng(0).random(250_000, np.float32)
    if name == "speech":
        return Sample(domain.resolve("reading:Waveform")(np.tile(noise, 60), 16_000))
    if name == "music":
        return Sample(domain.resolve("audio:Audio")(np.tile(noise, (2, 40)), 44_100))
    if name == "eeg":
        return Sample(
            domain.resolve("recording:Recording")(np.tile(noise, (64, 1)), 250.0, [f"E{i}" for i in range(64)])
        )
    if name == "sar":
        return Sample(domain.resolve("raster:Raster").from_array(np.tile(noise.reshape(500, 500), (16, 16))))
    if name == "medical":
        return Sample(domain.resolve("image:MedicalImage")(np.tile(noise.reshape(1, 1, 500, 500), (1, 150, 1, 1))))
    ends = np.random.default_rng(0).integers(0, 20_000, (2, 100_000)).tolist()
    return next(domain.load("reader")().parse({"edge_index": ends, "x": [[1.0]] * 20_000}))


@pytest.mark.parametrize("name", [name for name in DOMAINS if name != "network"])
def test_a_very_large_sample_is_drawn_from_less(name: str) -> None:
    if domains()[name].missing:
        pytest.skip("packages missing")
    sample, preview = huge(name), domains()[name].load("preview")
    started = time.process_time()
    check_picture(preview(sample))
    assert time.process_time() - started < 3  # about 0.4 s; not wall time, which depends on who else computes


def test_no_picture_holds_what_names_a_person_or_a_host(tmp_path: Path) -> None:
    """Text is drawn as paths, so the check looks at the text that is given to be drawn."""
    matplotlib = pytest.importorskip("matplotlib.text")
    pydicom = pytest.importorskip("pydicom")
    seen: list[str] = []
    set_text = matplotlib.Text.set_text
    matplotlib.Text.set_text = lambda self, s: (seen.append(str(s)), set_text(self, s))[1]
    try:
        medical = domains()["medical"]
        path = next(p for p in medical.load("samples")(tmp_path) if p.suffix == ".dcm")
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID, dataset.StudyDescription = "Doe^Jane", "ID4711", "Doe, knee"
        dataset.save_as(path)
        medical.load("preview")(next(medical.load("reader")().read(Source.from_path(path))))
        network = domains()["network"]
        reader = network.load("reader")(name_endpoints=True)
        capture = next(p for p in network.load("samples")(tmp_path) if p.name == "office.pcap")
        for sample in reader.read(Source.from_path(capture)):
            network.load("preview")(sample)
    finally:
        matplotlib.Text.set_text = set_text
    text = " ".join(seen)
    assert "CT, 96 x 96 pixels" in text and "packets" in text  # the check sees what is drawn
    assert not re.search(r"Doe|Jane|4711|192\.0\.2|198\.51|2001:db8", text)


# --- places and neighbours ------------------------------------------------------------------------------------------


def test_neighbours_are_by_centred_cosine_and_the_map_keeps_distances() -> None:
    far = np.array([1000.0, 1000, 1000])  # what all vectors share says nothing
    vectors = far + np.array([[1.0, 0, 0], [0.9, 0.1, 0], [-1, 0, 0], [0, -0.5, 0.01]])
    files = [Source.from_bytes(b"", name) for name in ("a", "b", "c", "d")]
    known = Examples(files, vectors.astype(np.float32), "space")
    told = known.beside(far + np.array([2.0, 0.1, 0]))
    assert [n["name"] for n in told["nearest"]][:2] == ["a", "b"] and told["nearest"][-1]["name"] == "c"
    units = vectors - vectors.mean(0)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    # Nearly all lies in one plane here, so that the map shows true distances.
    wanted = np.linalg.norm(units[0] - units[2])
    assert np.linalg.norm(known.places[0] - known.places[2]) == pytest.approx(wanted, rel=1e-2)
    for file, vector, place in zip(files, vectors, known.places, strict=True):
        told = known.beside(vector)
        assert told["nearest"][0] == {"name": file.name, "cosine": pytest.approx(1, abs=1e-3)}
        assert told["place"] == pytest.approx(place.tolist(), abs=1e-3)
    assert sum(known.shares) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("count", [1, 2])
def test_a_few_examples_make_a_map_too(count: int) -> None:
    files = [Source.from_bytes(b"", str(i)) for i in range(count)]
    known = Examples(files, np.eye(count, 5, dtype=np.float32), "space")
    assert known.places.shape == (count, 2) and np.isfinite(known.places).all()
    assert np.isfinite(known.beside(np.ones(5))["place"]).all()


# --- routes ---------------------------------------------------------------------------------------------------------


def test_the_page_loads_without_a_key_and_nothing_else_does(run: Any) -> None:
    async def main() -> None:
        keys = [{"name": "me", "hash": hash_of(KEY), "models": [MODEL]}]
        async with service(MODEL, "dsla-mol-tiny", keys=keys) as client:
            page = await client.get("/")
            assert page.status_code == 200 and "tiny" not in page.text
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
            assert page.headers["x-content-type-options"] == "nosniff"
            links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
            assert links and not any(link.startswith(("/", "http")) for link in links)  # below any prefix
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=)", page.text)
            for path in ASSETS:
                sent = await client.get(path)
                assert sent.status_code == 200 and sent.headers["content-security-policy"] == policy
                again = await client.get(path, headers={"if-none-match": sent.headers["etag"]})
                assert again.status_code == 304 and not again.content
            closed = [
                await client.get("/playground/"), await client.get("/playground/../app.py"),
                await client.get("/playground/routes.py"), await client.get(f"/v1/models/{MODEL}/examples"),
                await client.post(f"/v1/models/{MODEL}/preview", json={"input": "CCO"}),
                await client.post(f"/v1/models/{MODEL}/neighbours", json={"input": "CCO"}),
            ]  # fmt: skip
            assert [answer.status_code for answer in closed] == [401] * 6
            client.headers["Authorization"] = f"Bearer {KEY}"
            assert (await client.get("/playground/routes.py")).status_code == 404
            assert (await client.get(f"/v1/models/{MODEL}/examples")).status_code == 200
            for path in ("examples", "examples/aspirin.smi", "examples/aspirin.smi/preview"):
                assert (await client.get(f"/v1/models/dsla-mol-tiny/{path}")).status_code == 403
            assert (await client.post("/v1/models/dsla-mol-tiny/preview", json={"input": "C"})).status_code == 403

    run(main())


def test_scripts_reach_nothing_outside() -> None:
    for path, (content, _) in ASSETS.items():
        text = content.decode()
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(r"(inner|outer|Adjacent)HTML|\beval\b|document\.write|localStorage", text), path


def test_neighbours_examples_and_pictures_of_a_model(run: Any) -> None:
    async def main() -> None:
        async with service(MODEL) as client:
            at = f"/v1/models/{MODEL}"
            listed = (await client.get(f"{at}/examples")).json()
            described = (await client.get(at)).json()
            assert listed["embedding_space"] == described["embedding_space"] and described["domain"] == "graphs"
            assert len(listed["data"]) >= 30 and all(len(e["place"]) == 2 for e in listed["data"])
            file = await client.get(f"{at}/examples/caffeine.smi")
            again = await client.post(f"{at}/neighbours", files={"file": ("caffeine.smi", file.content)})
            told = again.json()["data"][0]["result"]
            assert told["nearest"][0] == {"name": "caffeine.smi", "cosine": 1.0}
            cosines = [n["cosine"] for n in told["nearest"]]
            assert cosines == sorted(cosines, reverse=True)
            place = next(e["place"] for e in listed["data"] if e["name"] == "caffeine.smi")
            assert told["place"] == pytest.approx(place, abs=1e-3)
            plain = await client.post(f"{at}/embeddings", json={"input": ["CCO"]})
            beside = await client.post(f"{at}/neighbours", json={"input": ["CCO", "CC(=O)C"]})
            first, second = (entry["result"] for entry in beside.json()["data"])
            np.testing.assert_allclose(first["embedding"], plain.json()["data"][0]["embedding"], atol=1e-5)
            assert first["nearest"][0]["name"] == "ethanol.smi" and second["nearest"][0]["name"] == "acetone.smi"

            for answer in (
                await client.post(f"{at}/preview", json={"input": "CCO"}),
                await client.post(f"{at}/preview", files={"file": ("x.smi", file.content)}),
                await client.get(f"{at}/examples/caffeine.smi/preview"),
            ):
                assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
                assert "sandbox" in answer.headers["content-security-policy"]
                check_picture(TaskFile(answer.content, answer.headers["content-type"], ""))
            two = {"file": ("two.smi", b"C methane\nXx bad\nCCO ethanol\n")}
            first_one = await client.post(f"{at}/preview", files=two)
            last = await client.post(f"{at}/preview?sample=ethanol", files=two)
            assert last.status_code == 200 and last.content != first_one.content

            refused = (
                (await client.post(f"{at}/preview?sample=nobody", files=two), 422, "sample_not_found"),
                (await client.post(f"{at}/preview?sample=bad", files=two), 422, "invalid_smiles"),
                (await client.post(f"{at}/preview", files={"file": ("x.smi", b"\x00\x01")}), 415, "not_text"),
                (await client.post(f"{at}/preview", files={"file": ("x.smi", b"")}), 422, "empty_input"),
                (await client.post(f"{at}/preview", json={"input": ["C", "CC"]}), 422, "invalid_request"),
                (await client.post(f"{at}/preview", json={"input": "C(("}), 422, "invalid_smiles"),
                (await client.post(f"{at}/neighbours", json={"input": "C(("}), 422, "invalid_smiles"),
                (await client.post(f"{at}/neighbours", data={"k": "1"}, files=two), 422, "unknown_field"),
                (await client.get(f"{at}/examples/..%2f..%2fapp.py"), 404, None),
                (await client.get(f"{at}/examples/nobody/preview"), 404, "example_not_found"),
                (await client.get("/v1/models/none/examples"), 404, "model_not_found"),
            )
            for answer, status, code in refused:
                assert answer.status_code == status, answer.text
                assert code in (None, answer.json()["error"]["code"]), answer.text

    run(main())


def test_models_without_pictures_or_examples_say_so(run: Any) -> None:
    from conftest import running_app

    async def main() -> None:
        async with running_app("dummy", "org/examples") as (client, _):
            none = await client.get("/v1/models/dummy/examples")
            assert (none.status_code, none.json()["error"]["code"]) == (404, "no_examples")
            none = await client.post("/v1/models/dummy/preview", json={"input": "1"})
            assert (none.status_code, none.json()["error"]["code"]) == (404, "task_not_found")
            # A model may be called like the route.
            assert (await client.get("/v1/models/org/examples")).json()["id"] == "org/examples"

    run(main())


def test_a_model_that_refuses_a_result_still_shows_it(run: Any) -> None:
    """MERLIN takes complex images alone; its despeckled ones are drawn by what the domain can read."""
    card = next((c for c in list_models() if c.name == "merlin-tiny"), None)
    if card is None or not card.has_weights:
        pytest.skip("no merlin-tiny")

    async def main() -> None:
        async with service("merlin-tiny") as client:
            at = "/v1/models/merlin-tiny"
            before = (await client.get(f"{at}/examples/lake-1.npy")).content
            after = (await client.post(f"{at}/despeckle", files={"file": ("lake.npy", before)})).content
            pictures = [
                np.asarray(Image.open(io.BytesIO((await client.post(f"{at}/preview", files={"file": f})).content)))
                for f in (before, after)
            ]
            assert pictures[0].shape == pictures[1].shape  # for the slider
            assert abs(float(pictures[0].mean()) - float(pictures[1].mean())) < 25  # alike in brightness
            assert pictures[1][60:70, 60:70].std() < pictures[0][60:70, 60:70].std()

    run(main())
