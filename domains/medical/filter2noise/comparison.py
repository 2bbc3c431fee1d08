"""Filter2Noise beside other filters, on a phantom: ``python -m domains.medical.filter2noise.comparison``."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.data import shepp_logan_phantom
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.restoration import denoise_bilateral, denoise_nl_means, denoise_tv_chambolle
from skimage.transform import iradon, radon, resize

from domains.medical.filter2noise.fitting import Fit, denoise_image, estimate_noise
from domains.medical.image import MedicalImage

Picture = NDArray[np.float32]
NOISE = 0.05
"""Standard deviation of the noise that is added, where the phantom runs from 0 to 1."""
ATTENUATION = 0.02
"""Of the phantom's 1, per pixel."""
PHOTONS = 2e4
"""That leave the source on each ray of the simulated scan."""
VIEWS = 360


def scenes(size: int, seed: int) -> Iterator[tuple[str, Picture, Picture]]:
    """Yield (name, truth, noisy image) of the Shepp-Logan phantom, three kinds of noise.

    White; correlated over neighbours (white noise smoothed by a Gaussian of one pixel); and a scan of few photons,
    reconstructed by filtered back projection, beside the reconstruction without noise.

    Args:
        size: Side, pixels.
        seed: Of the noise.
    """
    truth = resize(shepp_logan_phantom(), (size, size), anti_aliasing=True)
    random = np.random.default_rng(seed)
    yield "white", _picture(truth), _picture(truth + random.normal(0, NOISE, truth.shape))
    smooth = gaussian_filter(random.normal(size=truth.shape), 1.0)
    yield "correlated", _picture(truth), _picture(truth + smooth * (NOISE / smooth.std()))
    angles = np.linspace(0, 180, VIEWS, endpoint=False)
    lines = radon(truth * ATTENUATION, angles, circle=False)
    counts = random.poisson(PHOTONS * np.exp(-lines)).clip(1)
    clean, noisy = (
        iradon(sinogram, angles, circle=False, output_size=size) / ATTENUATION
        for sinogram in (lines, -np.log(counts / PHOTONS))
    )
    yield "low-dose scan", _picture(clean), _picture(noisy)


def methods(steps: int) -> dict[str, Callable[[Picture, float], Picture]]:
    """Return what to compare: a noisy image and its noise, estimated as Filter2Noise does, to a clean one."""
    found: dict[str, Callable[[Picture, float], Picture]] = {
        "none": lambda image, noise: image,
        "Gaussian, 1 pixel": lambda image, noise: gaussian_filter(image, 1.0),
        "bilateral": lambda image, noise: (
            denoise_bilateral(image - image.min(), sigma_color=2 * noise, sigma_spatial=2) + image.min()
        ),
        "total variation": lambda image, noise: denoise_tv_chambolle(image, weight=2 * noise),
        "non-local means": lambda image, noise: denoise_nl_means(
            image, patch_size=5, patch_distance=6, h=0.8 * noise, sigma=noise, fast_mode=True
        ),
    }
    if importlib.util.find_spec("bm3d"):  # free for research alone, so no dependency

        def bm3d(image: Picture, noise: float) -> Picture:
            import bm3d as package

            return np.asarray(package.bm3d(image, noise))

        found["BM3D"] = bm3d
    for stages in (1, 2):

        def filter2noise(image: Picture, noise: float, stages: int = stages) -> Picture:
            result = denoise_image(MedicalImage(image[None, None]), Fit(stages=stages, steps=steps))
            return result.image.values[0, 0]

        found[f"Filter2Noise, {stages} stage{'s' if stages > 1 else ''}"] = filter2noise
    return found


def compare(
    size: Annotated[int, typer.Option(help="Side of the phantom, pixels.")] = 192,
    steps: Annotated[int, typer.Option(help="Of Filter2Noise.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    only: Annotated[str, typer.Option(help="One kind of noise: white, correlated or scan.")] = "",
) -> None:
    """Print a table: peak signal-to-noise ratio in dB, structural similarity and seconds, of each kind of noise."""
    rows: dict[str, list[str]] = {}
    names = []
    for scene, truth, noisy in scenes(size, seed):
        if not scene.endswith(only):
            continue
        names.append(scene)
        noise, _ = estimate_noise(noisy[None])
        for name, method in methods(steps).items():
            started = time.monotonic()
            result = method(noisy, noise)
            seconds = time.monotonic() - started
            ratio = peak_signal_noise_ratio(truth, result, data_range=1)
            similarity = structural_similarity(truth, result, data_range=1)
            rows.setdefault(name, []).append(f"{ratio:.2f} / {similarity:.3f} ({seconds:.1f} s)")
    typer.echo(f"| | {' | '.join(names)} |\n|{'---|' * (1 + len(names))}")
    for name, cells in rows.items():
        typer.echo(f"| {name} | {' | '.join(cells)} |")


def _picture(values: NDArray[np.floating]) -> Picture:
    return values.astype(np.float32)


if __name__ == "__main__":
    typer.run(compare)
