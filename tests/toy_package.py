"""Puts the toy domain outside the tree as an installed package would be: found by its entry point alone."""

from __future__ import annotations

import shutil
from pathlib import Path

SOURCE = Path(__file__).parent / "toy" / "toy_domain"


def install(folder: Path) -> Path:
    """Copy the package with its metadata to a folder that only needs to be on the path."""
    shutil.copytree(SOURCE, folder / "toy_domain", ignore=shutil.ignore_patterns("__pycache__"))
    info = folder / "toy_domain-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-domain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fmhub.domains]\nnumbers = toy_domain\n")
    return folder
