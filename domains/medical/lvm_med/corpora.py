"""What lvm-med-tiny is trained on: synthetic slices of heads, and manifests over several folders.

``python -m domains.medical.lvm_med.corpora phantoms TEMPLATE OUT`` writes the slices, from an atlas's maps of grey and
white matter and its T1 image of the brain (the ICBM 152 2009 template, which the package nilearn carries).
``... manifest OUT.csv SET ...`` puts sets together for ``fmhub pretrain``: folders of images, and tables, of which the
train part is taken.
"""

from __future__ import annotations

import argparse
import csv
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from domains.medical.lvm_med.phantoms import Atlas, head_slice
from domains.medical.reading import MedicalReader

SUFFIXES = tomllib.loads((Path(__file__).parents[1] / "domain.toml").read_text())["suffixes"]


def write_phantoms(template: Path, out: Path, count: int, size: int = 128, seed: int = 0) -> list[Path]:
    """Write synthetic slices as PNG files, the same on every call.

    Args:
        template: Folder with ``*gm*.nii.gz``, ``*wm*.nii.gz`` and ``*t1*.nii.gz`` of one atlas.
        out: Where to write; made if absent.
        count: How many.
        size: Side of a slice, pixels.
        seed: The slice of a number depends on it and on the number alone.

    Raises:
        FileNotFoundError: A map is not there.
    """
    maps = {}
    for role, name in (("grey", "gm"), ("white", "wm"), ("brain", "t1")):
        found = sorted(template.glob(f"*_{name}_*.nii*"))
        if not found:
            raise FileNotFoundError(f"{template} holds no *_{name}_*.nii.gz")
        maps[role] = found[0]
    atlas = Atlas.read(maps["grey"], maps["white"], maps["brain"])
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        values = head_slice(atlas, size, np.random.default_rng([seed, number]))
        paths.append(out / f"head-{number:05d}.png")
        Image.fromarray(np.round(values * 255).astype(np.uint8)).save(paths[-1])
    return paths


def write_manifest(out: Path, sets: Sequence[Path]) -> int:
    """List the images of some sets in a manifest, and return how many there are.

    Args:
        out: The manifest to write.
        sets: Folders, whose images are all taken; or CSV tables with a column ``file`` (paths from the table's folder,
            or from ``images`` in it) and perhaps ``split``, of which only ``train`` is taken.
    """
    reader = MedicalReader()
    files: list[Path] = []
    for one in sets:
        if one.is_dir():
            files += reader.find(one, SUFFIXES)
            continue
        with one.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row.get("split", "train") == "train"]
        # The table of a set of volumes lies beside its folder of images.
        folder = one.parent / "images" if (one.parent / "images").is_dir() else one.parent
        files += [folder / row["file"] for row in rows]
    with out.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["file"], *([str(path.resolve())] for path in files)])
    return len(files)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="What lvm-med-tiny is trained on.")
    commands = parser.add_subparsers(dest="command", required=True)
    phantoms = commands.add_parser("phantoms", help="write synthetic slices of heads")
    phantoms.add_argument("template", type=Path)
    phantoms.add_argument("out", type=Path)
    phantoms.add_argument("--count", type=int, default=1500)
    phantoms.add_argument("--seed", type=int, default=0)
    manifest = commands.add_parser("manifest", help="list the images of several sets")
    manifest.add_argument("out", type=Path)
    manifest.add_argument("sets", type=Path, nargs="+")
    given = parser.parse_args()
    if given.command == "phantoms":
        count = len(write_phantoms(given.template, given.out, given.count, seed=given.seed))
    else:
        count = write_manifest(given.out, given.sets)
    print(f"{count} images: {given.out}")


if __name__ == "__main__":
    main()
