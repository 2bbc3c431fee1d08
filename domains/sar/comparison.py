"""Despeckling models beside classical filters.

``python -m domains.sar.comparison FOLDER MODEL...`` on images whose true reflectivity is known: the folder holds pairs
``NAME_slc.npy`` (complex) and ``NAME_expected.npy`` (the expected intensity). With ``--figure FILE`` it draws them too.

``python -m domains.sar.comparison IMAGE MODEL...`` on one single-look complex image: equivalent looks in its most
homogeneous squares.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from domains.sar.quality import boxcar, equivalent_looks, homogeneous_areas, lee, psnr
from domains.sar.reading import RasterReader
from domains.sar.writing import read_band
from hub.reading import Source

SIDES = (3, 5, 7, 9)
Filter = Callable[[Path], NDArray[np.floating]]


def classical_filters() -> dict[str, Filter]:
    """Return boxcar and Lee filters of several sides: path of a complex image to its estimated intensity."""
    filters: dict[str, Filter] = {"noisy": _intensity}
    for side in SIDES:
        filters[f"boxcar {side}"] = lambda path, side=side: boxcar(_intensity(path), side)
        filters[f"Lee {side}"] = lambda path, side=side: lee(_intensity(path), side)
    return filters


def model_filter(name: str) -> Filter:
    """Return a despeckling model (a name that ``hub.from_pretrained`` takes) as such a filter."""
    import hub

    embedder = hub.from_pretrained(name)
    return lambda path: np.square(read_band(embedder.run("despeckle", path)[0].content), dtype=np.float64)


def figures(truth: NDArray[np.floating], estimate: NDArray[np.floating]) -> dict[str, float]:
    """Return how near an estimated intensity is to the true one: PSNR and SSIM of amplitudes, and bias."""
    from skimage.metrics import structural_similarity

    reference, amplitude = np.sqrt(truth), np.sqrt(np.maximum(estimate, 0))
    peak = float(np.quantile(reference, 0.99))
    return {
        "psnr": psnr(reference, amplitude),
        "ssim": float(structural_similarity(reference, amplitude.astype(reference.dtype), data_range=peak)),
        "bias": float(estimate.mean(dtype=np.float64) / truth.mean(dtype=np.float64)),
    }


def compare(folder: Path, filters: Mapping[str, Filter]) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield scene, filter and figures, for every pair of files in a folder."""
    for path in _scenes(folder):
        truth = np.load(_truth_of(path))
        for name, apply in filters.items():
            yield path.name.removesuffix("_slc.npy"), name, figures(truth, apply(path))


def looks(path: Path, filters: Mapping[str, Filter]) -> Iterator[tuple[str, float, float]]:
    """Yield filter, equivalent number of looks, and mean intensity over that of the image.

    The looks are the median of ten squares of 24 pixels, chosen where a boxcar of 9 pixels varies least, which
    flatters the boxcar.
    """
    noisy = _intensity(path)
    areas = homogeneous_areas(boxcar(noisy, 9))
    for name, apply in filters.items():
        found = apply(path)
        yield name, float(np.median([equivalent_looks(found[area]) for area in areas])), found.mean() / noisy.mean()


def draw(folder: Path, filters: Mapping[str, Filter], output: Path) -> None:
    """Draw each scene, each filter's estimate of it and the truth, in decibels, as a picture file."""
    from matplotlib.figure import Figure

    scenes = _scenes(folder)
    columns = [*filters, "truth"]
    size = (2.1 * len(columns), 2.25 * len(scenes))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(scenes), len(columns), squeeze=False)
    for row, path in zip(axes, scenes, strict=True):
        truth = np.load(_truth_of(path))
        low, high = np.quantile(_decibels(truth), (0.01, 0.995))
        for axis, name in zip(row, columns, strict=True):
            estimate = truth if name == "truth" else filters[name](path)
            axis.imshow(_decibels(estimate), cmap="gray", vmin=low - 3, vmax=high, interpolation="none")
            axis.set(title=name, xticks=[], yticks=[])
            axis.title.set_fontsize(9)
    figure.savefig(output, dpi=66, pil_kwargs={"optimize": True})


def _scenes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*_slc.npy"))


def _truth_of(path: Path) -> Path:
    return path.with_name(path.name.replace("_slc", "_expected"))


def _decibels(intensity: NDArray[np.floating]) -> NDArray[np.floating]:
    return 10 * np.log10(np.maximum(intensity, 1e-9))


def _intensity(path: Path) -> NDArray[np.floating]:
    (sample,) = RasterReader().read(Source.from_path(path))
    return np.square(np.abs(sample.data.values[0]), dtype=np.float64)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="folder of scenes with their truth, or one image")
    parser.add_argument("models", nargs="*", help="names or folders that hub.from_pretrained takes")
    parser.add_argument("--figure", type=Path, help="picture to write")
    options = parser.parse_args()
    classical = classical_filters()
    models = {name: model_filter(name) for name in options.models}
    filters = {**classical, **models}
    if not options.path.is_dir():
        for name, number, ratio in looks(options.path, filters):
            print(f"{name:40} {number:7.1f} looks  mean {ratio:.3f}", flush=True)
        return
    for scene, name, found in compare(options.path, filters):
        values = f"{found['psnr']:6.2f} dB  SSIM {found['ssim']:.3f}  bias {found['bias']:.2f}"
        print(f"{scene:16} {name:40} {values}", flush=True)
    if options.figure:
        drawn = {"one look": classical["noisy"], "Lee, 7 pixels": classical["Lee 7"], **models}
        draw(options.path, drawn, options.figure)


if __name__ == "__main__":
    main()
