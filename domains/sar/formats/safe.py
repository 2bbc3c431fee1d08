"""Sentinel-1 SAFE: a folder whose ``measurement`` holds one GeoTIFF for each swath and polarisation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hub.errors import InvalidInput
from hub.reading import Source

MEASUREMENT = re.compile(
    r"^s1[a-d]-(?P<swath>[a-z]{2}\d?)-(?P<product>slc|grd\w?|ocn)-(?P<polarisation>hh|hv|vh|vv)-", re.IGNORECASE
)
"""Names of measurement files, product specification S1-RS-MDA-52-7441, section 4."""
TOPS_SWATHS = ("iw", "ew")


def is_safe(folder: Path) -> bool:
    """Tell whether a folder is a SAFE scene."""
    return folder.is_dir() and (folder / "measurement").is_dir()


def measurements(folder: Path) -> Iterator[tuple[str, Source]]:
    """Yield key (such as ``iw1-vv``) and file of each measurement.

    Raises:
        InvalidInput: There is none, or one lies outside the folder.
    """
    found = sorted(p for p in (folder / "measurement").iterdir() if p.suffix.lower() in (".tif", ".tiff"))
    if not found:
        raise InvalidInput("the SAFE folder's measurement folder holds no TIFF", code="no_measurement")
    for path in found:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InvalidInput(f"measurement/{path.name} is a link that leaves the SAFE folder", code="unsafe_link")
        yield key_of(path.name) or path.stem, Source.from_path(path, path.name)


def key_of(name: str) -> str:
    """Return swath and polarisation of a measurement file's name, or nothing."""
    match = MEASUREMENT.match(name)
    return f"{match['swath']}-{match['polarisation']}".lower() if match else ""


def is_tops(name: str) -> bool:
    """Tell by its name whether a file is a single-look complex TOPS swath, whose bursts lie below one another."""
    match = MEASUREMENT.match(name)
    return match is not None and match["swath"][:2].lower() in TOPS_SWATHS and match["product"].lower() == "slc"
