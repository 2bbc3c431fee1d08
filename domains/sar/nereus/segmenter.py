"""A light decoder from token states to the classes of pixels, and its answer as a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from rasterio.io import MemoryFile
from torch import Tensor, nn
from torch.nn import functional as F

from domains.sar.formats.quiet import quietly
from domains.sar.nereus.configuration import NereusConfig
from domains.sar.raster import Georeference, Raster
from domains.sar.writing import georeference_options
from hub.modeling import TaskFile
from hub.reading import Sample


class Segmenter(nn.Module):
    """Token states, brought to the size of the image and read beside its pixels.

    States say what is there, pixels where it ends: a single 3 x 3 convolution over both draws the line.
    """

    def __init__(self, config: NereusConfig) -> None:
        """Create the layers."""
        super().__init__()
        width = config.segmenter_width
        self.states = nn.Sequential(nn.GroupNorm(1, config.hidden_size), nn.Conv2d(config.hidden_size, width, 1))
        self.pixels = nn.Conv2d(config.num_channels, width, 5, padding=2)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.output = nn.Conv2d(width, len(config.segments), 1)

    def forward(self, states: Tensor, pixels: Tensor) -> Tensor:
        """Map a grid of states to logits ``(batch, classes, rows, columns)`` float32.

        Args:
            states: ``(batch, hidden, cells down, cells across)``.
            pixels: ``(batch, 1, rows, columns)``, the image that was encoded.
        """
        dtype = self.output.weight.dtype
        coarse = F.interpolate(self.states(states.to(dtype)), pixels.shape[2:], mode="bilinear", align_corners=False)
        mixed = self.mix(F.gelu(coarse + self.pixels(pixels.to(dtype))))
        return self.output(F.gelu(mixed)).float()


def class_map(logits: Tensor, sample: Sample, classes: list[str] | tuple[str, ...]) -> TaskFile:
    """Return the likeliest class of each pixel as a GeoTIFF of bytes on the image's own grid.

    Args:
        logits: ``(classes, rows, columns)`` at the model's size.
        sample: Of the `Raster` they are of.
        classes: Their names, written as tags ``class_0``, ``class_1`` and so on.
    """
    image: Raster = sample.data
    rows, columns = image.shape[1:]
    full = F.interpolate(logits[None], (rows, columns), mode="bilinear", align_corners=False)[0]
    labels = full.argmax(0).to(torch.uint8).cpu().numpy()
    return TaskFile(_geotiff(labels, image.georeference, classes), "image/tiff", "segments.tif")


def _geotiff(labels: np.ndarray, where: Georeference | None, classes: list[str] | tuple[str, ...]) -> bytes:
    options: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": 1, "compress": "deflate"}
    options |= {"height": labels.shape[0], "width": labels.shape[1], **georeference_options(where)}
    with MemoryFile() as memory, quietly():
        with memory.open(**options) as file:
            file.update_tags(**{f"class_{number}": name for number, name in enumerate(classes)})
            file.write(labels, 1)
        return bytes(memory.read())
