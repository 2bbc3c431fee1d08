"""The filter of Filter2Noise: widths predicted from the image by attention over its patches, one or two stages."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.medical.filter2noise.bilateral import bilateral_filter

PATCH = 8
"""Side of a patch, pixels: one set of widths a patch."""
HIDDEN = 8
RADIUS = 3
"""Pixels that the window reaches from its centre on each axis. Not given in the paper's text; 7 x 7 is ours."""
WIDEST = 6.0
"""Largest width in place, pixels."""
WIDEST_RANGE = 6.0
"""Largest range width, in standard deviations of the noise: what differs more is never averaged away."""
START_SPATIAL = 1.0
"""Width in pixels that the filter starts from."""
START_RANGE = 2.0
"""Range width that the filter starts from, in standard deviations of the noise."""


class Attention(nn.Module):
    """Each token's own value, and scaled dot-product attention of one head over all.

    Its own value is added because attention alone, nearly even over all patches in so short a fit, gives every patch
    the same widths.
    """

    def __init__(self, features: int, hidden: int) -> None:
        """Create the three projections, ``features`` to ``hidden``."""
        super().__init__()
        self.query = nn.Linear(features, hidden)
        self.key = nn.Linear(features, hidden)
        self.value = nn.Linear(features, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(batch, tokens, features)`` to ``(batch, tokens, hidden)``."""
        values = self.value(tokens)
        return values + F.scaled_dot_product_attention(self.query(tokens), self.key(tokens), values)


class WidthPredictor(nn.Module):
    """Widths of a bilateral filter for each patch: feature attention, width attention, normalisation, three outputs.

    1,819 parameters, the paper's "1.8 k" a stage.
    """

    def __init__(self, noise: float) -> None:
        """Create the layers.

        Args:
            noise: Estimated standard deviation of the noise, in units of the scaled image. The last layer's bias
                starts at a filter fit for it; the paper starts from random values.
        """
        super().__init__()
        self.features = Attention(PATCH * PATCH, HIDDEN)
        self.widths = Attention(HIDDEN, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.output = nn.Linear(HIDDEN, 3)
        nn.init.normal_(self.output.weight, std=0.02)
        start = torch.tensor([START_SPATIAL, START_SPATIAL, START_RANGE * max(noise, 1e-4)])
        with torch.no_grad():
            self.output.bias.copy_(start.expm1().log())  # the inverse of softplus
        self.widest = (WIDEST, WIDEST, WIDEST_RANGE * max(noise, 1e-4))

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(batch, rows, columns)`` to ``(batch, 3, patches down, patches across)``."""
        rows, columns = image.shape[1:]
        down, across = math.ceil(rows / PATCH), math.ceil(columns / PATCH)
        extra = (0, across * PATCH - columns, 0, down * PATCH - rows)
        patches = F.unfold(F.pad(image[:, None], extra, mode="replicate"), PATCH, stride=PATCH).transpose(1, 2)
        raw = self.output(self.norm(self.widths(self.features(patches))))
        widths = F.softplus(raw).clamp(min=1e-4).minimum(raw.new_tensor(self.widest))
        return widths.transpose(1, 2).unflatten(2, (down, across))


class Filter2Noise(nn.Module):
    """One or two filters after each other, each with its own predictor (Filter2Noise-S1 and -S2)."""

    def __init__(self, stages: int, noise: float) -> None:
        """Create the stages.

        Args:
            stages: How many.
            noise: See `WidthPredictor`.
        """
        super().__init__()
        self.stages = nn.ModuleList(WidthPredictor(noise) for _ in range(stages))

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Filter ``(batch, rows, columns)``, scaled to about 0 to 1.

        Returns:
            The result, same shape, and of each stage its widths ``(batch, 3, patches down, patches across)``.
        """
        maps = []
        for stage in self.stages:
            widths = stage(image)
            maps.append(widths)
            image = bilateral_filter(image, at_pixels(widths, image.shape[1:]), RADIUS)
        return image, maps


def at_pixels(widths: Tensor, size: torch.Size) -> Tensor:
    """Bring widths of patches to pixels, ``(batch, 3, rows, columns)``: linear between the patches' centres."""
    rows, columns = size
    grid = (widths.shape[2] * PATCH, widths.shape[3] * PATCH)
    return F.interpolate(widths, grid, mode="bilinear", align_corners=False)[:, :, :rows, :columns]
