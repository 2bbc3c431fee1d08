"""The playground in a browser, against a running server with the built-in models.

``FMHUB_SCREENSHOTS=docs/img pytest -m slow tests/serving/test_playground_browser.py`` renews the pictures of the docs.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from hub.domain import domains
from serving.keys import hash_of, new_key

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium installed")]

ROOT = Path(__file__).parents[2]
PATIENCE = 120_000
"""Milliseconds; a busy machine is slow, and says nothing about the page."""


@dataclass(frozen=True)
class Case:
    """One domain: what is dropped, and what must be seen."""

    model: str
    file: str
    nearest: str
    samples: int = 1


CASES = {
    "speech": Case("tera-tiny", "synthetic-high-voice.mp3", "high voice"),
    "music": Case("mert-tiny", "synthetic-clarinet.mp3", "A minor"),
    "eeg": Case("eegformer-tiny", "synthetic-eyes.edf", "eyes", 2),
    "network": Case("netfound-tiny", "office.pcap", "name lookup", 12),
    "graphs": Case("graphmae-mol-tiny", "drugs.smi", "aspirin", 5),
    "medical": Case("lvm-med-tiny", "synthetic-volume.nii", "volume"),
    "sar": Case("merlin-tiny", "synthetic-fields.tif", ""),
}


@dataclass(frozen=True)
class Server:
    """A running service, its key, and a folder of each domain's sample files."""

    url: str
    key: str
    files: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("playground")
    for name in CASES:
        if domains()[name].missing:
            pytest.skip(f"{name}: packages missing")
        (folder / name).mkdir()
        domains()[name].load("samples")(folder / name)
    key = new_key()
    settings = folder / "serve.yaml"
    settings.write_text(yaml.safe_dump({"keys": [{"name": "page", "hash": hash_of(key)}], "torch_threads": 1}))
    command = [sys.executable, "-m", "hub.cli", "serve", "--backend", "local", "--port", "0", "--config", str(settings)]
    log = (folder / "log").open("w+")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        url = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", (folder / "log").read_text()))[0]
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        yield Server(url, key, folder)
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def wait_for(ask: Callable[[], Any]) -> Any:
    for _ in range(240):
        try:
            if found := ask():
                return found
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError("the server did not come up")


@dataclass
class Watched:
    """A page that notes what it asks for and complains of."""

    page: Any
    server: Server
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def enter(self, model: str) -> None:
        """Open the page for a model, give the key that it asks for, and wait for the examples."""
        self.page.goto(f"{self.server.url}/#{model}")
        alert = self.page.get_by_role("alert")
        alert.get_by_text("no Authorization header").wait_for()  # in the service's own words
        assert self.page.evaluate("document.activeElement.id") == "key"
        self.page.keyboard.type(self.server.key)
        self.page.keyboard.press("Enter")
        self.page.locator("#examples button").first.wait_for()
        assert not alert.is_visible()
        # The browser itself reports the 401 that was meant.
        self.complaints = [c for c in self.complaints if "401" not in c]

    def drop(self, name: str, content: bytes) -> None:
        self.page.locator("#drop").evaluate(
            """(target, [name, data]) => {
                const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], name));
                for (const kind of ["dragover", "drop"])
                    target.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
            }""",
            [name, base64.b64encode(content).decode()],
        )

    def wait_shown(self, name: str) -> None:
        """Wait until a file's picture and those of its neighbours are there."""
        self.page.locator("#status").get_by_text(name).wait_for()
        self.page.locator(f'#picture img[alt*="{name}"]').wait_for()
        for number in range(self.page.locator("#near li").count()):
            self.page.locator("#near li").nth(number).locator("img").wait_for()
        broken = "[...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
        wait_for(lambda: self.page.evaluate(broken) == 0)

    def check_quiet(self) -> None:
        assert self.complaints == []
        own = (self.server.url, "blob:", "data:")
        assert [url for url in self.requests if not url.startswith(own)] == []

    def keep_picture(self, name: str) -> None:
        """Save what is seen as a PNG of few colours, where the pictures of the docs are to be renewed."""
        folder = os.environ.get("FMHUB_SCREENSHOTS")
        self.page.mouse.move(0, 0)
        self.page.evaluate("scrollTo(0, 0)")
        image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        assert len(set(image.resize((64, 64)).get_flattened_data())) > 20  # something is drawn
        if folder:
            small = image.quantize(200, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            small.save(ROOT / folder / f"playground-{name}.png", optimize=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[..., Watched]]:
    contexts = []

    def opened(width: int = 1200, height: int = 1480, **options: Any) -> Watched:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        return Watched(contexts[-1].new_page(), server)

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("domain", CASES)
def test_a_dropped_file_is_seen_and_set_beside_examples(domain: str, visit: Any, server: Server) -> None:
    case = CASES[domain]
    view = visit()
    page = view.page
    view.enter(case.model)
    assert page.get_by_role("radio", name=case.model).is_checked()
    view.drop(case.file, (server.files / domain / case.file).read_bytes())
    view.wait_shown(case.file)
    assert page.locator("#result-name").inner_text() == case.file
    names = page.locator("#near .name").all_inner_texts()
    assert len(names) == 5 and case.nearest in names[0] + names[1]
    cosines = [float(text) for text in page.locator("#near .cosine").all_inner_texts()]
    assert cosines == sorted(cosines, reverse=True) and -1 <= cosines[-1] <= cosines[0] <= 1
    examples = page.locator("#examples button").count()
    assert page.locator("#map .point").count() == examples and page.locator("#map .query").count() == 1
    assert re.match(r"The embedding: \d+ numbers from -?\d", page.locator("#strip").get_attribute("aria-label"))
    assert page.locator("#items button").count() == (case.samples if case.samples > 1 else 1)
    assert page.locator("#items-card").is_visible() == (case.samples > 1)
    shown = page.locator(".snippet pre").all_inner_texts()
    assert f"file=@{case.file} {server.url}/v1/models/{case.model}/embeddings" in shown[0]
    assert f'client.embed("{case.model}", Path("{case.file}"))' in shown[1]
    assert server.key not in page.content()
    if case.samples > 1:
        before = page.locator("#picture img").get_attribute("src")
        page.locator("#items button").nth(1).click()
        key = page.locator("#items button").nth(1).locator("span").first.inner_text()
        page.locator(f'#picture img[alt*="{key}"]').wait_for()
        assert page.locator("#picture img").get_attribute("src") != before
        view.wait_shown(case.file)
    if domain == "sar":
        check_slider(view)
    view.keep_picture(domain)
    view.check_quiet()


def check_slider(view: Watched) -> None:
    page = view.page
    page.locator("#tasks").get_by_role("button", name="despeckle").click()
    page.locator(".compare img.after").wait_for()
    slider = page.get_by_role("slider")
    slider.focus()
    seen = []
    for press, cut in (("Home", "0%"), ("End", "100%"), ("ArrowLeft", "99%")):
        page.keyboard.press(press)
        assert page.locator(".compare .both").evaluate("(e) => e.style.getPropertyValue('--cut')") == cut
        seen.append(page.locator(".compare .both").screenshot())
    assert "1 % despeckle" in slider.get_attribute("aria-valuetext")
    assert seen[0] != seen[1]
    sizes = page.locator(".compare img").evaluate_all(
        "(images) => images.map((i) => [i.naturalWidth, i.naturalHeight])"
    )
    assert sizes[0] == sizes[1]
    link = page.get_by_role("link", name="Save despeckled.tif")
    assert link.get_attribute("download") == "despeckled.tif"
    slider.fill("50")


def test_the_lines_that_are_shown_do_the_same(visit: Any, server: Server) -> None:
    view = visit()
    page = view.page
    view.enter("graphmae-mol-tiny")
    page.locator("#examples button", has_text="caffeine").click()
    view.wait_shown("caffeine.smi")
    wanted = re.search(r"begins with (\S+), (\S+),", page.locator("#strip-note").inner_text())
    assert wanted
    environment = {**os.environ, "FMHUB_API_KEY": server.key, "PYTHONPATH": str(ROOT)}
    folder = server.files / "lines"
    folder.mkdir()

    def lines(tab: str) -> list[str]:
        page.locator("#code").get_by_role("button", name=tab, exact=True).click()
        return page.locator(".snippet pre").all_inner_texts()

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    curl, python = lines("embedding")
    numbers = yaml.safe_load(run("bash", "-c", curl))["data"][0]["embedding"]
    assert [f"{number:.3f}" for number in numbers[:2]] == [wanted[1], wanted[2]]
    assert f"(1, {len(numbers)})" in run(sys.executable, "-c", python)
    curl, python = lines("neighbours")
    assert "caffeine.smi" in run("bash", "-c", curl) and "caffeine.smi" in run(sys.executable, "-c", python)
    curl, python = lines("picture")
    run("bash", "-c", curl)
    drawn = (folder / "picture").read_bytes()
    run(sys.executable, "-c", python)
    assert b"</svg>" in drawn and (folder / "picture").read_bytes() == drawn


def test_the_keyboard_is_enough(visit: Any, server: Server) -> None:
    view = visit()
    page = view.page
    view.enter("dsla-mol-tiny")

    def focused(what: str = "e.id || e.textContent") -> str:
        return page.evaluate(f"(() => {{ const e = document.activeElement; return String({what}); }})()")

    def tab_to(wanted: Callable[[str], bool]) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            outline = "getComputedStyle(e.id === 'file' ? e.nextElementSibling : e.closest('.model') ?? e).outlineWidth"
            if wanted(focused()):
                assert focused("e.closest('.point') ? '3px' : " + outline) == "3px"  # it can be seen where one is
                return
        raise AssertionError("Tab does not get there")

    page.evaluate("document.activeElement.blur()")
    page.get_by_role("radio", name="dsla-mol-tiny").focus()
    page.keyboard.press("ArrowDown")
    page.locator("#about-title", has_text="graphmae-mol-tiny").wait_for()
    page.locator("#examples button").first.wait_for()
    tab_to(lambda name: name == "file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(server.files / "graphs" / "solvents.sdf")
    view.wait_shown("solvents.sdf")
    assert focused() == "result-title"
    tab_to(lambda name: name.startswith("hexane"))
    page.keyboard.press("Enter")
    page.locator('#picture img[alt*="hexane"]').wait_for()
    tab_to(lambda name: name.startswith("hexane") and "1.000" in name)
    page.keyboard.press("Enter")
    view.wait_shown("hexane.smi")
    tab_to(lambda name: page.evaluate("!!document.activeElement.closest('#map')"))
    first = focused("e.dataset.name")
    page.keyboard.press("ArrowLeft")
    other = focused("e.dataset.name")
    assert other != first and other.endswith(".smi")
    page.keyboard.press("Enter")
    view.wait_shown(other)
    tab_to(lambda name: name == "Copy")
    view.check_quiet()


def test_a_bad_file_is_told_in_the_words_of_the_service(visit: Any, server: Server) -> None:
    view = visit()
    view.enter("tera-tiny")
    view.drop("<img src=x onerror=alert(1)>.wav", b"RIFF\x24\x00\x00\x00WAVEfmt broken")
    alert = view.page.get_by_role("alert")
    alert.get_by_text(re.compile("422|415")).wait_for()
    answer = httpx.post(
        f"{server.url}/v1/models/tera-tiny/neighbours",
        files={"file": ("<img src=x onerror=alert(1)>.wav", b"RIFF\x24\x00\x00\x00WAVEfmt broken")},
        headers={"Authorization": f"Bearer {server.key}"},
    )
    assert answer.json()["error"]["message"] in alert.inner_text() and not view.page.locator("#result").is_visible()
    assert view.page.locator("#problem img").count() == 0
    assert not [c for c in view.complaints if "status of 4" not in c]


def test_a_narrow_dark_screen(visit: Any, server: Server) -> None:
    view = visit(400, 1700, color_scheme="dark", reduced_motion="reduce")
    page = view.page
    view.enter("eegformer-tiny")
    view.drop("eyes.edf", (server.files / "eeg" / "synthetic-eyes.edf").read_bytes())
    view.wait_shown("eyes.edf")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 150
    page.locator("#picture").scroll_into_view_if_needed()
    view.keep_picture("narrow-dark")
    view.check_quiet()
