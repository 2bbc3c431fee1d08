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

import numpy as np
import torch

from domains.sar.nereus.intensity import decibels, shrink
from domains.sar.nereus.processing import REFERENCES, NereusProcessor
from hub.domain import get_domain
from hub.errors import HubError, InvalidManifest
from hub.manifest import read_manifest
from hub.reading import Source

COLUMNS = ("file", "label", "group", "split")
Row = dict[str, str]

TAILS = 3
"""Long tails that are written."""
SMALLEST = 0.08
"""Share of the rarest class of a long tail that is kept."""


def mstar(folder: Path, out: Path) -> list[Path]:
    """Write the manifests of MSTAR: targets learnt at a depression angle of 17 degrees, tested at 15.

    - ``mstar``: all chips with their class, ``train`` and ``test`` by the angle.
    - ``mstar-pretrain``: the 17-degree chips, without labels.
    - ``mstar-tail-0`` to ``-2``: a long tail of them, from all of one class down to 8 % of another, the classes in
      another order each; with labels, by which the balance of what curation selects can be judged.

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
    learnt = [r for r in rows if r["split"] == "train"]
    written = [
        _write(out / "mstar.csv", rows),
        _write(out / "mstar-pretrain.csv", [{"file": r["file"]} for r in learnt]),
    ]
    tails = [_write(out / f"mstar-tail-{seed}.csv", long_tail(learnt, seed)) for seed in range(TAILS)]
    return written + tails


def long_tail(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return a part of a labelled set in which the classes' shares fall geometrically from all to ``SMALLEST``.

    Args:
        rows: With their ``label``.
        seed: Of the order of the classes and of which of their rows stay.
    """
    random = np.random.default_rng(seed)
    classes = random.permutation(sorted({r["label"] for r in rows}))
    kept = []
    for rank, name in enumerate(classes):
        own = [r for r in rows if r["label"] == name]
        count = round(len(own) * SMALLEST ** (rank / max(1, len(classes) - 1)))
        kept += [own[i] for i in sorted(random.permutation(len(own))[:count])]
    return kept


def opensarship(folder: Path, out: Path) -> list[Path]:
    """Write the manifests of OpenSARShip's detected chips, and the VV band of those with two.

    Bands have no names in the chips; ``labels.csv`` tells their order.

    - ``ships-length``: the ship's length in metres, from its transponder.
    - ``ships-type``: cargo ship or tanker.

    Args:
        folder: Holds ``labels.csv`` with ``file,label,product,polarisation,ais_length_m`` and the chips.
        out: Where to write.

    Returns:
        The files written.
    """
    rows = [r for r in _labels(folder) if r["product"] == "grd"]
    length, kind = [], []
    for r in rows:
        file = _vv(folder, out, r)
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


def _vv(folder: Path, out: Path, row: Row) -> str:
    """Return a chip with the VV band alone as seen from ``out``; one of several bands is copied there."""
    import rasterio

    polarisations = row["polarisation"].upper().split("_")
    if len(polarisations) == 1:
        return _seen_from(out, folder / row["file"])
    copy = out / "vv" / row["file"]
    copy.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(folder / row["file"]) as chip:
        values = chip.read(polarisations.index("VV") + 1)
    height, width = values.shape
    with rasterio.open(copy, "w", driver="GTiff", dtype=values.dtype, height=height, width=width, count=1) as file:
        file.write(values, 1)
    return _seen_from(out, copy)


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
