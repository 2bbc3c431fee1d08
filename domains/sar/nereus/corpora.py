"""Labelled sets of SAR chips as manifests, and the normalisation of a set of images.

``python -m domains.sar.nereus.corpora mstar FOLDER OUT``, ``... opensarship FOLDER OUT`` and ``... statistics DATA``.
The folders of the first two hold a ``labels.csv`` that lists their chips.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from domains.sar.nereus.intensity import decibels, shrink
from domains.sar.nereus.processing import REFERENCES, NereusProcessor
from hub.domain import get_domain
from hub.errors import HubError, InvalidManifest
from hub.manifest import read_manifest
from hub.reading import Source

COLUMNS = ("file", "label", "group", "split")
Row = dict[str, str]


def mstar(folder: Path, out: Path) -> list[Path]:
    """Write the manifests of MSTAR: targets learnt at a depression angle of 17 degrees, tested at 15.

    - ``mstar``: all chips with their class, ``train`` and ``test`` by the angle.
    - ``mstar-pretrain``: the 17-degree chips, without labels.

    Args:
        folder: Holds ``labels.csv`` with ``file,label,depression_deg`` and the chips.
        out: Where to write.

    Returns:
        The files written.
    """
    rows = [
        {"file": _seen_from(out, folder / r["file"]), "label": r["label"], "split": _side(r["depression_deg"])}
        for r in _labels(folder)
    ]
    heard = [{"file": r["file"]} for r in rows if r["split"] == "train"]
    return [_write(out / "mstar.csv", rows), _write(out / "mstar-pretrain.csv", heard)]


def opensarship(folder: Path, out: Path) -> list[Path]:
    """Write the manifests of OpenSARShip's detected chips.

    - ``ships-length``: the ship's length in metres, from its transponder.
    - ``ships-type``: cargo ship or tanker.

    Args:
        folder: Holds ``labels.csv`` with ``file,label,product,ais_length_m`` and the chips.
        out: Where to write.

    Returns:
        The files written.
    """
    rows = [r for r in _labels(folder) if r["product"] == "grd"]
    length, kind = [], []
    for r in rows:
        file = _seen_from(out, folder / r["file"])
        if float(r["ais_length_m"] or 0) > 0:
            length.append({"file": file, "label": r["ais_length_m"]})
        if r["label"] in ("Cargo", "Tanker"):
            kind.append({"file": file, "label": r["label"]})
    return [_write(out / "ships-length.csv", length), _write(out / "ships-type.csv", kind)]


def statistics(data: Path, size: int, crop: int, clip: Sequence[float], reference: str, band: str = "VV") -> Row:
    """Measure the normalisation of a set: what a recipe's ``processor`` section needs.

    Args:
        data: A folder of images, or a manifest.
        size: Side of the model's input, pixels.
        crop: See `NereusProcessor`, as for the rest.
        clip: See there.
        reference: See there.
        band: See there.

    Returns:
        ``mean`` and ``std`` in dB after clipping, and the number of ``images``.

    Raises:
        InvalidManifest: No image could be read.
    """
    processor = NereusProcessor(size, sum(clip) / 2, 1.0, clip, reference, crop=crop, band=band)
    reader, domain = processor.reader(), get_domain("sar")
    files = reader.find(data, domain.suffixes) if data.is_dir() else [row.file for row in read_manifest(data)]
    first, second, images = 0.0, 0.0, 0
    for file in files:
        try:
            powers = [processor.relative_power(s.checked(str(file))) for s in reader.read(Source.from_path(file))]
        except HubError:
            continue  # it is left out of a run, too
        for power in powers:
            levels = decibels(shrink(power, size)).clamp(*processor.clip).double()
            first, second, images = first + float(levels.mean()), second + float(levels.square().mean()), images + 1
    if not images:
        raise InvalidManifest(f"{data} holds no image that can be used")
    mean = first / images
    return {"mean": f"{mean:.2f}", "std": f"{(second / images - mean**2) ** 0.5:.2f}", "images": str(images)}


def _side(depression: str) -> str:
    return "train" if depression == "17" else "test"


def _labels(folder: Path) -> list[Row]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _seen_from(out: Path, file: Path) -> str:
    return os.path.relpath(file.resolve(), out.resolve())


def _write(path: Path, rows: Iterable[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Manifests of SAR chips, and the normalisation of a set.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("mstar", "opensarship"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("out", type=Path)
    measure = commands.add_parser("statistics")
    measure.add_argument("data", type=Path)
    measure.add_argument("--size", type=int, default=256)
    measure.add_argument("--crop", type=int, default=0)
    measure.add_argument("--clip", type=float, nargs=2, default=(-25.0, 25.0))
    measure.add_argument("--reference", choices=REFERENCES, default="image")
    measure.add_argument("--band", default="VV")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "statistics":
        print(statistics(options.data, options.size, options.crop, options.clip, options.reference, options.band))
        return
    for path in {"mstar": mstar, "opensarship": opensarship}[options.command](options.folder, options.out):
        print(path)


if __name__ == "__main__":
    main()
