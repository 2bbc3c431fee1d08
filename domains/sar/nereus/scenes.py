"""A labelled scene as tiles for segmentation: ``python -m domains.sar.nereus.scenes IMAGE LABELS OUT --tile 128``."""

from __future__ import annotations

import argparse
from pathlib import Path

import rasterio
from rasterio.windows import Window

from hub.errors import InvalidManifest

HALVES = ("left", "right")


def cut(image: Path, labels: Path, out: Path, tile: int, band: int = 1) -> list[Path]:
    """Cut a scene and its raster of class numbers to tiles on their own places on the ground.

    Neighbouring tiles resemble each other, so a split at random would flatter: the scene is split in the middle.

    Args:
        image: Raster of the scene.
        labels: Class numbers on the same grid.
        out: Where to write.
        tile: Side of a tile, pixels; what does not fill one at the right and lower edges is left out.
        band: Of the image, from 1.

    Returns:
        Two manifests of ``file,label,split``: ``left-right.csv`` trains on the left half and tests on the right one,
        ``right-left.csv`` the other way round.

    Raises:
        InvalidManifest: The two are not on one grid, or no tile fits into a half.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with rasterio.open(image) as scene, rasterio.open(labels) as classes:
        if scene.shape != classes.shape:
            raise InvalidManifest(
                f"{image} and {labels} have {scene.shape} and {classes.shape} pixels; one grid is needed"
            )
        half = scene.width // 2
        for number, first in enumerate((0, half)):
            for top in range(0, scene.height - tile + 1, tile):
                for left in range(first, first + half - tile + 1, tile):
                    window = Window(left, top, tile, tile)
                    name = f"{image.stem}-{top}-{left}.tif"
                    _write(out / name, scene, band, window)
                    _write(out / f"labels-{name}", classes, 1, window)
                    rows.append((name, f"labels-{name}", HALVES[number]))
    if not rows:
        raise InvalidManifest(f"no tile of {tile} pixels fits into a half of {image}")
    written = []
    for train, test in (HALVES, HALVES[::-1]):
        lines = [f"{file},{label},{'train' if side == train else 'test'}" for file, label, side in rows]
        written.append(out / f"{train}-{test}.csv")
        written[-1].write_text("\n".join(["file,label,split", *lines]) + "\n", encoding="utf-8")
    return written


def _write(path: Path, source: rasterio.DatasetReader, band: int, window: Window) -> None:
    values = source.read(band, window=window)
    profile = {
        "driver": "GTiff",
        "height": values.shape[0],
        "width": values.shape[1],
        "count": 1,
        "nodata": source.nodata,
    }
    profile |= {"dtype": values.dtype, "crs": source.crs, "transform": source.window_transform(window)}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Cut a labelled scene to tiles, with manifests.")
    parser.add_argument("image", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--band", type=int, default=1)
    given = parser.parse_args()
    for path in cut(given.image, given.labels, given.out, given.tile, given.band):
        print(path)


if __name__ == "__main__":
    main()
