"""Despeckling models beside classical filters, on images whose true reflectivity is known.

``python -m domains.sar.comparison FOLDER MODEL...`` where the folder holds pairs ``NAME_slc.npy`` (complex) and
``NAME_expected.npy`` (the expected intensity).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from domains.sar.quality import boxcar, lee, psnr
from domains.sar.writing import read_band

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
    for path in sorted(folder.glob("*_slc.npy")):
        truth = np.load(path.with_name(path.name.replace("_slc", "_expected")))
        for name, apply in filters.items():
            yield path.name.removesuffix("_slc.npy"), name, figures(truth, apply(path))


def _intensity(path: Path) -> NDArray[np.floating]:
    return np.square(np.abs(np.load(path)), dtype=np.float64)


def main() -> None:
    """Print the table."""
    folder, *models = sys.argv[1:]
    filters = classical_filters()
    for model in models:
        filters[model] = model_filter(model)
    for scene, name, found in compare(Path(folder), filters):
        print(f"{scene:16} {name:40} {found['psnr']:6.2f} dB  SSIM {found['ssim']:.3f}  bias {found['bias']:.2f}")


if __name__ == "__main__":
    main()
