"""Despeckling beside the package deepdespeckling 0.8: the same weights, the same tiles, the same output.

The package pins libraries that are not needed here, so it is put beside the environment, not into it::

    pip install --no-deps --target PEER deepdespeckling==0.8
    PYTHONPATH=PEER python benchmarks/run.py despeckling
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Result
from domains.sar.merlin.conversion import convert
from domains.sar.merlin.inference import despeckled_strips
from domains.sar.merlin.modeling import MerlinModel
from domains.sar.samples import coast, simulate_slc
from hub.embedder import load_part

SIDE, PATCH, STRIDE = 510, 256, 254
"""Of the image and the tiles, pixels: four tiles that overlap by two, the package's own setting."""
ROUNDS = 5
UNUSED = ("cv2", "osgeo")
"""What the package imports for windows and for files of other formats; empty modules do here."""


def run() -> list[Result]:
    """One image of 510 x 510 pixels through both, with each tile's spectrum centred, and as it is."""
    if importlib.util.find_spec("deepdespeckling") is None:
        print(f"despeckling: skipped, for want of deepdespeckling. {(__doc__ or '').partition('::')[2].strip()}")
        return []
    image = simulate_slc(coast(SIDE, SIDE, 0), 0)
    return [_compared(image, centred) for centred in (True, False)]


def _compared(image: np.ndarray, centred: bool) -> Result:
    peer, folder = _peer(centred)
    pairs = np.stack([image.real, image.imag], axis=-1)
    parts = torch.from_numpy(np.moveaxis(pairs, -1, 0).copy())
    with tempfile.TemporaryDirectory() as converted:
        convert(folder / "saved_models" / "stripmap.pth", Path(converted))
        model = load_part(MerlinModel, Path(converted)).eval()
    model.config.symmetrise = centred

    def theirs() -> np.ndarray:
        return peer.denoise_image(pairs, PATCH, STRIDE)["denoised"]["full"]

    def ours() -> np.ndarray:
        strips = despeckled_strips(model, lambda first, last: parts[:, first:last], SIDE, SIDE, 1.0)
        return torch.cat([strip.amplitude for strip in strips]).numpy()

    apart = np.abs(20 * np.log10(ours() / theirs())).max()
    spectrum = "spectra centred" if centred else "spectra as they are"
    seconds: dict[str, list[float]] = {"deepdespeckling 0.8": [], "fmhub": []}
    for _ in range(ROUNDS):
        for name, run_once in zip(seconds, (theirs, ours), strict=True):
            # Processor time: a call takes seconds, in which other work on the machine would count too.
            started = time.process_time()
            run_once()
            seconds[name].append(time.process_time() - started)
    speed = image.size / 1e6 / np.median(seconds["fmhub"])
    title = f"despeckling of {image.size / 1e6:.2f} megapixels ({speed:.3f} a CPU second), {spectrum}"
    return Result(f"{title}; outputs at most {apart:.1g} dB apart", seconds)


def _peer(centred: bool) -> tuple[Any, Path]:
    """Return the package's denoiser and the folder of its weights."""
    for name in UNUSED:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].gdal = None  # type: ignore[attr-defined]
    from deepdespeckling.merlin import merlin_denoiser
    from tqdm import tqdm

    merlin_denoiser.tqdm = lambda rows: tqdm(rows, disable=True)
    return merlin_denoiser.MerlinDenoiser("stripmap", centred), Path(merlin_denoiser.__file__).parent
