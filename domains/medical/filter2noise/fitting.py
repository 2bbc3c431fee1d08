"""Fitting the filter to an image, and filtering it: the Python interface of Filter2Noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.restoration import estimate_sigma
from torch import Tensor

from domains.medical.filter2noise.modeling import PATCH, Filter2Noise
from domains.medical.filter2noise.objective import EDGE_WEIGHT, objective
from domains.medical.image import MedicalImage, from_slices
from hub.errors import InvalidInput, UnsupportedOption

SMALLEST = 2 * PATCH
"""Shortest side of a slice, pixels: its halves hold a patch."""
RANGE = (0.5, 99.5)
"""Percentiles that are scaled to 0 and 1; what lies beyond them keeps its place on the same line."""
NOISE_SLICES = 8
"""Slices, spread over a volume, from which noise and range are estimated."""


@dataclass(frozen=True)
class Fit:
    """How to fit the filter.

    Attributes:
        stages: 1 or 2 filters after each other.
        steps: Optimiser steps.
        learning_rate: Peak of the one-cycle schedule.
        edge_weight: The paper's lambda.
        crop: Side of the squares that steps look at, pixels; 0 for whole slices, as published.
        spread: Only every so many-th pixel is compared with its neighbours, for noise that is correlated over fewer; 1
            as published, 0 for 2 where the noise looks correlated (`estimate_noise`) and 1 elsewhere.
        seed: Of initialisation and crops.
    """

    stages: int = 2
    steps: int = 500
    learning_rate: float = 1e-2
    edge_weight: float = EDGE_WEIGHT
    crop: int = 128
    spread: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UnsupportedOption on a value that cannot be."""
        if self.stages not in (1, 2):
            raise UnsupportedOption(f"stages is {self.stages}; it is 1 or 2", param="stages")
        if self.steps < 1:
            raise UnsupportedOption(f"steps is {self.steps}; it must be at least 1", param="steps")
        if self.crop and self.crop < SMALLEST:
            raise UnsupportedOption(f"crop is {self.crop}; it is at least {SMALLEST}, or 0", param="crop")
        if not 0 <= self.spread <= 4:
            raise UnsupportedOption(f"spread is {self.spread}; it is at most 4", param="spread")
        for name in ("learning_rate", "edge_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UnsupportedOption(f"{name} is {getattr(self, name)}; it is not negative", param=name)


@dataclass(frozen=True)
class Denoised:
    """What was made of an image.

    Attributes:
        image: The same image with less noise, in the same units.
        widths: Of each slice and stage the filter's widths, ``(slices, stages, 3, patches down, patches across)``:
            along columns and rows in pixels, and in value in the units of the image.
        noise: Standard deviation of the noise that was estimated before, in the units of the image.
        removed: Standard deviation of what was taken away.
    """

    image: MedicalImage
    widths: NDArray[np.float32] = field(repr=False)
    noise: float
    removed: float


def denoise_image(
    image: MedicalImage,
    fit: Fit = Fit(),  # frozen
    each_slice: bool = False,
    on_step: Callable[[int], None] = lambda steps: None,
) -> Denoised:
    """Remove the noise of a grey slice, picture or volume, with no other data.

    Slices are filtered as they were acquired. Of a volume one filter is fitted to all slices together, a random one a
    step, unless ``each_slice``: the paper fits every slice anew.

    Args:
        image: With one channel, or three that are equal.
        fit: How.
        each_slice: Fit each slice of a volume by itself.
        on_step: Called with the number of steps just done.

    Raises:
        InvalidInput: The image has colours, is constant, or its slices are too small.
    """
    if (image.values == image.values[:1]).all():
        image = replace(image, values=image.values[:1])  # grey stored as RGB
    if image.values.shape[0] != 1:
        raise InvalidInput("the image has colours; noise is removed from images of one channel", code="not_grey")
    slices = np.ascontiguousarray(image.slices()[:, 0], dtype=np.float32)
    if min(slices.shape[1:]) < SMALLEST:
        raise InvalidInput(
            f"slices have {slices.shape[1]} x {slices.shape[2]} pixels; at least {SMALLEST} x {SMALLEST} are needed",
            code="too_small",
        )
    parts = [slices[n : n + 1] for n in range(len(slices))] if each_slice else [slices]
    results = [_denoise(part, fit, on_step) for part in parts]
    values = np.concatenate([r[0] for r in results])
    noise = float(np.mean([r[2] for r in results]))
    return Denoised(
        replace(image, values=from_slices(values[:, None], image.slice_axis)),
        np.concatenate([r[1] for r in results]),
        noise,
        float((values - slices).std()),
    )


def _denoise(
    slices: NDArray[np.float32], fit: Fit, on_step: Callable[[int], None]
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Return slices denoised, widths in their units, and the estimated noise."""
    some = slices[np.linspace(0, len(slices) - 1, min(len(slices), NOISE_SLICES)).round().astype(int)]
    low, high = np.percentile(some, RANGE).astype(np.float64)
    if not high > low:
        low, high = float(slices.min()), float(slices.max())
    if not high > low:
        raise InvalidInput("the image is constant; there is no noise to remove", code="constant_image")
    size = high - low
    scaled = torch.from_numpy(((slices - low) / size).astype(np.float32))
    noise, correlated = estimate_noise((some - low) / size)
    most = min(*slices.shape[1:], fit.crop or slices.shape[1]) // SMALLEST
    model = fit_filter(scaled, noise, replace(fit, spread=min(most, fit.spread or 1 + correlated)), on_step)
    values, widths = [], []
    with torch.inference_mode():
        for one in scaled.split(1):
            result, maps = model(one)
            values.append(result)
            widths.append(torch.stack(maps, 1))
    units = torch.tensor([1.0, 1.0, size]).view(3, 1, 1)
    result = torch.cat(values).double().numpy() * size + low
    return result.astype(np.float32), (torch.cat(widths) * units).float().numpy(), noise * size


def estimate_noise(slices: NDArray[Any]) -> tuple[float, bool]:
    """Return the standard deviation of the noise, and whether it looks correlated over neighbouring pixels.

    A robust one of wavelet details (Donoho and Johnstone 1994), those of the image itself or of the image at half its
    size, whichever is larger: white noise falls to a half with the size, while correlated noise grows, since it hardly
    shows in the finest details.

    Args:
        slices: ``(slices, rows, columns)``; the medians over them are taken.
    """
    halves = torch.nn.functional.avg_pool2d(torch.from_numpy(slices.astype(np.float32)), 2).numpy()
    fine, coarse = (float(np.median([estimate_sigma(s) for s in some])) for some in (slices, halves))
    return max(fine, coarse), coarse > fine


def fit_filter(
    slices: Tensor, noise: float, fit: Fit, on_step: Callable[[int], None] = lambda steps: None
) -> Filter2Noise:
    """Fit a filter to slices: AdamW under a one-cycle schedule.

    Args:
        slices: ``(slices, rows, columns)`` scaled to about 0 to 1.
        noise: Estimated standard deviation of their noise.
        fit: How; a ``spread`` of 0 counts as 1.
        on_step: Called with the number of steps just done.
    """
    generator = torch.Generator().manual_seed(fit.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fit.seed)
        model = Filter2Noise(fit.stages, noise)
    optimizer = torch.optim.AdamW(model.parameters(), lr=fit.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, fit.learning_rate, total_steps=fit.steps + 1)
    for _ in range(fit.steps):
        piece = spread_out(_piece(slices, fit.crop, generator), fit.spread or 1)
        loss, _ = objective(lambda x: model(x)[0], piece, fit.edge_weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        on_step(1)
    return model.eval().requires_grad_(False)


def spread_out(image: Tensor, spread: int) -> Tensor:
    """Return the images that every ``spread``-th pixel makes, ``(batch * spread^2, rows / spread, columns / spread)``.

    What is left over at the end of rows and columns is left out.
    """
    rows, columns = (side // spread * spread for side in image.shape[1:])
    return torch.nn.functional.pixel_unshuffle(image[:, None, :rows, :columns], spread).flatten(0, 1)


def _piece(slices: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """Return a random square of a random slice, ``(1, rows, columns)``, or a whole one."""

    def draw(choices: int) -> int:
        return int(torch.randint(choices, (), generator=generator))

    number = draw(len(slices))
    rows, columns = (min(crop or side, side) for side in slices.shape[1:])
    top, left = draw(slices.shape[1] - rows + 1), draw(slices.shape[2] - columns + 1)
    return slices[number : number + 1, top : top + rows, left : left + columns]
