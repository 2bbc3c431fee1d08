"""The MERLIN model: complex images to despeckled ones, and to token states of the network's encoder."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.sar.merlin.configuration import MULTIPLE, MerlinConfig
from domains.sar.merlin.inference import despeckled_strips, parts_at_once
from domains.sar.merlin.network import MerlinUNet
from domains.sar.merlin.spectrum import symmetrise
from domains.sar.merlin.tiles import reflected, tile_offsets, tile_side
from domains.sar.raster import Raster
from domains.sar.writing import GeoTiff
from hub.modeling import EmbeddingModel, EncoderOutput, TaskFile
from hub.reading import Sample

EPSILON_LOG = 1e-3
"""Added to the square of a part before its logarithm."""
EPSILON_AMPLITUDE = 1e-6
"""Added to an amplitude before its logarithm (SAR2SAR)."""
LEVELS = 6


@dataclass(frozen=True)
class _Tile:
    """A tile of one image of a batch, and which cells of it count there."""

    image: int
    pixels: Tensor
    counted: Tensor


class MerlinModel(EmbeddingModel):
    """Single-look complex images to despeckled amplitudes and to token states, one token an area of 32 x 32 pixels.

    The embedding is of the encoder: hidden state i is its level i (of 1/2, 1/4, 1/8, 1/16, 1/32 and again 1/32 of the
    resolution), averaged to cells of 32 x 32 pixels and over the two parts.
    """

    config: MerlinConfig
    config_class = MerlinConfig
    base_model_prefix = "merlin"
    main_input_name = "pixel_values"
    input_modalities = "image"
    tasks: ClassVar[Mapping[str, str]] = {"despeckle": "despeckle"}

    def __init__(self, config: MerlinConfig) -> None:
        """Create the network with fresh weights."""
        super().__init__(config)
        self.network = MerlinUNet(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # The published initialisation is torch's own.
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()

    @property
    def num_hidden_states(self) -> int:
        """The encoder's levels."""
        return LEVELS

    def normalise(self, parts: Tensor) -> Tensor:
        """Return the network's input: logarithms of the parts' amplitudes, 0 at m and 1 at M.

        Args:
            parts: Real or imaginary parts (or amplitudes, for ``input="amplitude"``), any shape, digital numbers.
        """
        m, span = self.config.log_minimum, self.config.log_range
        if self.config.input == "amplitude":
            return ((parts.clamp(min=0) + EPSILON_AMPLITUDE).log() - m) / span
        return ((parts.square() + EPSILON_LOG).log() - 2 * m) / (2 * span)

    def amplitudes(self, normalised: Tensor) -> Tensor:
        """Return amplitudes from normalised logarithms, without clipping."""
        return (normalised * self.config.log_range + self.config.log_minimum).exp()

    def centred(self, tiles: Tensor) -> Tensor:
        """Return tiles ``(batch, parts, rows, columns)`` with their spectra centred, where the configuration asks."""
        if self.config.input != "complex" or not self.config.symmetrise:
            return tiles
        parts = symmetrise(torch.complex(tiles[:, 0].float(), tiles[:, 1].float()))
        return torch.stack([parts.real, parts.imag], dim=1).to(tiles.dtype)

    def despeckle_tiles(self, tiles: Tensor) -> Tensor:
        """Return what is averaged where tiles overlap.

        Args:
            tiles: ``(batch, parts, rows, columns)`` of digital numbers; sides are multiples of 32.

        Returns:
            The same shape: normalised logarithms of complex input, amplitudes of detected input.
        """
        flat = self.normalise(self.centred(tiles)).flatten(0, 1).unsqueeze(1)
        passes = [self.network(part) for part in flat.split(parts_at_once(self.device))]
        estimates = torch.cat(passes).squeeze(1).unflatten(0, tiles.shape[:2])
        return self.amplitudes(estimates.clamp(min=0)) if self.config.input == "amplitude" else estimates

    def forward(
        self, pixel_values: Tensor, sizes: Tensor, scale: Tensor, output_hidden_states: bool = False
    ) -> EncoderOutput:
        """Encode images tile by tile.

        Args:
            pixel_values: ``(batch, parts, rows, columns)`` digital numbers, missing pixels 0, padded at the bottom and
                right.
            sizes: ``(batch, 2)`` int64, rows and columns of each image.
            scale: ``(batch,)``, factor on each image's values.
            output_hidden_states: Whether to return all levels.

        Returns:
            States ``(batch, tokens, hidden)``, tile by tile, each row by row; the mask leaves out cells without data
            and those that an earlier tile has covered.
        """
        images = [
            values[:, :rows, :columns] * factor
            for values, (rows, columns), factor in zip(pixel_values, sizes.tolist(), scale, strict=True)
        ]
        groups: dict[torch.Size, list[_Tile]] = defaultdict(list)
        for number, image in enumerate(images):
            for tile in self._tiles(number, image):
                groups[tile.pixels.shape].append(tile)
        found: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        at_once = max(1, parts_at_once(self.device) // self.config.parts)
        for tiles in groups.values():
            for first in range(0, len(tiles), at_once):
                group = tiles[first : first + at_once]
                states = self._cell_states(torch.stack([t.pixels for t in group]))
                for tile, state in zip(group, states, strict=True):
                    found[tile.image].append((state, tile.counted))
        return _padded([found[number] for number in range(len(images))], output_hidden_states)

    def _tiles(self, number: int, image: Tensor) -> list[_Tile]:
        """Cut one image ``(parts, rows, columns)`` to tiles side by side, the last ones flush with its ends."""
        rows, columns = image.shape[1:]
        height, width = tile_side(rows, self.config.patch), tile_side(columns, self.config.patch)
        tops, lefts = tile_offsets(rows, height, height), tile_offsets(columns, width, width)
        present = F.pad((image != 0).any(0), (0, max(0, width - columns), 0, max(0, height - rows)))
        image = reflected(image, max(height, rows), max(width, columns))
        new_rows, new_columns = _new_cells(tops, height), _new_cells(lefts, width)
        tiles = []
        for top, rows_new in zip(tops, new_rows, strict=True):
            for left, columns_new in zip(lefts, new_columns, strict=True):
                area = (slice(top, top + height), slice(left, left + width))
                cells = F.max_pool2d(present[area][None, None].float(), MULTIPLE)[0, 0] > 0
                counted = cells & (rows_new[:, None] & columns_new).to(cells.device)
                tiles.append(_Tile(number, image[:, *area], counted.flatten()))
        return tiles

    def _cell_states(self, tiles: Tensor) -> Tensor:
        """Return the levels of tiles ``(batch, parts, rows, columns)`` as ``(batch, levels, cells, hidden)``."""
        flat = self.normalise(self.centred(tiles)).flatten(0, 1).unsqueeze(1)
        cells = (tiles.shape[-2] // MULTIPLE, tiles.shape[-1] // MULTIPLE)
        levels = [F.adaptive_avg_pool2d(level, cells) for level in self.network.encode(flat)]
        states = torch.stack(levels, dim=1).unflatten(0, tiles.shape[:2]).mean(1)
        return states.flatten(-2).transpose(-1, -2)

    def despeckle(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[TaskFile]:
        """Return each image's despeckled amplitude, in the units of its file, as a GeoTIFF with its georeference."""
        results = []
        for values, (rows, columns), factor, sample in zip(
            batch["pixel_values"], batch["sizes"].tolist(), batch["scale"].tolist(), samples, strict=True
        ):
            raster: Raster = sample.data
            content = io.BytesIO()
            image = values[:, :rows, :columns]
            with GeoTiff(content, raster, self.describe()) as output:
                for strip in despeckled_strips(self, lambda a, b, v=image: v[:, a:b], rows, columns, factor):
                    output.write(strip.row, strip.amplitude.numpy())
            name = f"despeckled-{sample.key.replace('/', '-')}.tif" if sample.key else "despeckled.tif"
            results.append(TaskFile(content.getvalue(), "image/tiff", name))
        return results

    def describe(self) -> str:
        """Return one line on how an image was despeckled, for its metadata."""
        method = "MERLIN" if self.config.input == "complex" else "SAR2SAR"
        return f"{method}, tiles of {self.config.patch} every {self.config.stride} pixels"


def _new_cells(offsets: list[int], side: int) -> list[Tensor]:
    """Return for each tile along an axis which of its cells have their centre beyond the tile before."""
    centres = torch.arange(side // MULTIPLE) * MULTIPLE + MULTIPLE // 2
    ends = [0, *(offset + side for offset in offsets[:-1])]
    return [offset + centres >= end for offset, end in zip(offsets, ends, strict=True)]


def _padded(images: list[list[tuple[Tensor, Tensor]]], every_level: bool) -> EncoderOutput:
    """Pad the token states of images, each of several tiles, to one batch."""
    states = [torch.cat([state for state, _ in tiles], dim=1) for tiles in images]
    masks = [torch.cat([counted for _, counted in tiles]) for tiles in images]
    longest = max(len(mask) for mask in masks)
    levels = torch.stack([F.pad(s, (0, 0, 0, longest - s.shape[1])) for s in states], dim=1)
    mask: Any = torch.stack([F.pad(m, (0, longest - len(m))) for m in masks])
    return EncoderOutput(levels[-1], mask, tuple(levels) if every_level else None)
