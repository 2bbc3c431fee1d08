"""nnFormer as Alice uses it (Zhou et al. 2021; sizes and order of operations are those of Alice's code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.medical.alice.attention import WindowAttention
from domains.medical.alice.configuration import PATCH, AliceConfig


class DropPath(nn.Module):
    """Leaves a residual branch out for some samples of a batch while training."""

    def __init__(self, rate: float) -> None:
        """Keep the probability."""
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch, zero for the samples drawn, and grown for the others in proportion."""
        if not self.training or not self.rate:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= self.rate
        return branch * kept / (1 - self.rate)


class FeedForward(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        """Create the layers."""
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, cells: Tensor) -> Tensor:
        """Map the last axis."""
        return self.fc2(F.gelu(self.fc1(cells)))


class Block(nn.Module):
    """Window attention and feed-forward, each after a layer normalisation and beside a residual."""

    def __init__(
        self, width: int, heads: int, window: int, shift: int, config: AliceConfig, drop: float, across: bool = False
    ) -> None:
        """Create the layers; see `WindowAttention`."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window, shift, config.published_index, across)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio))
        self.drop_path = DropPath(drop)

    def forward(self, cells: Tensor, skip: Tensor | None = None, above: Tensor | None = None) -> Tensor:
        """Transform ``(batch, x, y, z, channels)``.

        Args:
            cells: The residual; of the decoder's first block the sum of the next two.
            skip: The encoder's map, for keys and values.
            above: What came up from the stage below, for queries.
        """
        if skip is None or above is None:
            mixed = self.attn(self.norm1(cells))
        else:
            mixed = self.attn(self.norm1(skip), self.norm1(above))
        cells = cells + self.drop_path(mixed)
        return cells + self.drop_path(self.mlp(self.norm2(cells)))


class ConvolutionPair(nn.Module):
    """Two 3 x 3 x 3 convolutions with GELU and layer normalisation; the last pair ends with the convolution."""

    def __init__(self, channels: int, width: int, stride: int, last: bool) -> None:
        """Create the layers."""
        super().__init__()
        self.conv1 = nn.Conv3d(channels, width, 3, stride=stride, padding=1)
        self.norm1 = nn.LayerNorm(width)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1)
        self.norm2 = None if last else nn.LayerNorm(width)

    def forward(self, volumes: Tensor) -> Tensor:
        """Map ``(batch, channels, x, y, z)``."""
        volumes = over_channels(self.norm1, F.gelu(self.conv1(volumes)))
        volumes = self.conv2(volumes)
        return volumes if self.norm2 is None else over_channels(self.norm2, F.gelu(volumes))


class PatchEmbedding(nn.Module):
    """Voxels to cells of half the resolution, by four convolutions of which the first strides."""

    def __init__(self, width: int) -> None:
        """Create the layers."""
        super().__init__()
        self.proj1 = ConvolutionPair(1, width // 2, PATCH, last=False)
        self.proj2 = ConvolutionPair(width // 2, width, 1, last=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, volumes: Tensor) -> Tensor:
        """Map ``(batch, 1, x, y, z)`` voxels to ``(batch, width, x / 2, y / 2, z / 2)``."""
        return over_channels(self.norm, self.proj2(self.proj1(volumes)))


class Downsampling(nn.Module):
    """GELU, layer normalisation and a strided convolution to twice the channels."""

    def __init__(self, width: int) -> None:
        """Create the layers."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.reduction = nn.Conv3d(width, 2 * width, 3, stride=2, padding=1)

    def forward(self, cells: Tensor) -> Tensor:
        """Map ``(batch, x, y, z, channels)`` to half the sides."""
        return self.reduction(self.norm(F.gelu(cells)).movedim(-1, 1)).movedim(1, -1)


class Stage(nn.Module):
    """Blocks of one resolution, every second one with shifted windows, and the way down."""

    def __init__(self, config: AliceConfig, stage: int, drops: Sequence[float]) -> None:
        """Create the blocks of stage number ``stage``, the finest being 0."""
        super().__init__()
        width = config.widths[stage]
        window, shift = window_and_shift(config, stage)
        self.blocks = nn.Sequential(
            *(
                Block(width, config.num_heads[stage], window, shift if i % 2 else 0, config, drop)
                for i, drop in enumerate(drops)
            )
        )
        last = stage == len(config.depths) - 1
        self.downsample = None if last else Downsampling(width)


class Encoder(nn.Module):
    """Voxels to a pyramid of maps, each layer-normalised."""

    absolute_pos_embed: Tensor

    def __init__(self, config: AliceConfig) -> None:
        """Create the layers; the model initialises them."""
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config.embed_dim)
        # A buffer, because the published code neither trains nor saves its table.
        self.register_buffer("absolute_pos_embed", position_table(config))
        drops = spread(config.drop_path, config.depths)
        self.layers = nn.ModuleList(Stage(config, i, drops[i]) for i in range(len(config.depths)))
        for i, width in enumerate(config.widths):
            self.add_module(f"norm{i}", nn.LayerNorm(width))

    def forward(self, volumes: Tensor) -> list[Tensor]:
        """Map ``(batch, 1, x, y, z)`` to maps ``(batch, channels, ...)``, finest first."""
        cells = self.patch_embed(volumes)
        cells = (cells + self._positions(tuple(cells.shape[2:]))).movedim(1, -1)
        maps = []
        for i, stage in enumerate(self.layers):
            assert isinstance(stage, Stage)
            cells = stage.blocks(cells)
            maps.append(self.get_submodule(f"norm{i}")(cells).movedim(-1, 1))
            if stage.downsample is not None:
                cells = stage.downsample(cells)
        return maps

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        built = tuple(side // PATCH for side in self.config.roi)
        table = self.absolute_pos_embed.view(1, *built, -1).movedim(-1, 1)
        return table if grid == built else F.interpolate(table, size=grid, mode="trilinear", align_corners=False)


class Upsampling(nn.Module):
    """Layer normalisation and a transposed convolution to half the channels."""

    def __init__(self, width: int) -> None:
        """Create the layers for an input of ``2 * width`` channels."""
        super().__init__()
        self.norm = nn.LayerNorm(2 * width)
        self.up = nn.ConvTranspose3d(2 * width, width, 2, stride=2)

    def forward(self, cells: Tensor) -> Tensor:
        """Map ``(batch, x, y, z, channels)`` to twice the sides."""
        return self.up(self.norm(cells).movedim(-1, 1)).movedim(1, -1)


class DecoderStage(nn.Module):
    """Up, then a block that looks at the encoder's map, then shifted blocks."""

    def __init__(self, config: AliceConfig, stage: int, drops: Sequence[float]) -> None:
        """Create the blocks of the resolution of encoder stage ``stage``."""
        super().__init__()
        width = config.widths[stage]
        window, shift = window_and_shift(config, stage)
        self.upsample = Upsampling(width)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads[stage], window, shift if i % 2 else 0, config, drop, across=i == 0)
            for i, drop in enumerate(drops)
        )

    def forward(self, cells: Tensor, skip: Tensor) -> Tensor:
        """Map the stage below and the encoder's map to ``(batch, x, y, z, channels)``."""
        above = self.upsample(cells)
        cells = self.blocks[0](above + skip, skip, above)
        for block in self.blocks[1:]:
            cells = block(cells)
        return cells


class Output(nn.Module):
    """Cells of the finest map to voxels."""

    def __init__(self, width: int) -> None:
        """Create the layer."""
        super().__init__()
        self.up = nn.ConvTranspose3d(width, 1, PATCH, stride=PATCH)

    def forward(self, cells: Tensor) -> Tensor:
        """Map ``(batch, channels, x, y, z)`` to ``(batch, 1, 2 x, 2 y, 2 z)``."""
        return self.up(cells)


class Decoder(nn.Module):
    """A pyramid to finer and finer maps, and the finest to voxels.

    The published decoder has such an output for each resolution and uses the finest alone; so there is that one.
    """

    def __init__(self, config: AliceConfig) -> None:
        """Create the stages."""
        super().__init__()
        depths = list(reversed(config.depths[:-1]))
        drops = list(reversed(spread(config.drop_path, depths)))
        self.layers = nn.ModuleList(DecoderStage(config, i, drops[i]) for i in range(len(depths)))
        self.final = Output(config.widths[0])
        self.token_width = config.widths[-2]

    def deepest(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the deepest decoder map alone, ``(batch, token_width, x, y, z)``."""
        return self.layers[-1](maps[-1].movedim(1, -1), maps[-2].movedim(1, -1)).movedim(-1, 1)

    def forward(self, volumes: Tensor, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode a pyramid.

        Args:
            volumes: ``(batch, 1, x, y, z)``, which it came from; not looked at by this decoder.
            maps: Finest first.

        Returns:
            Decoder maps ``(batch, channels, ...)``, deepest first, and voxels ``(batch, 1, x, y, z)``.
        """
        decoded = [self.deepest(maps)]
        for layer, skip in zip(self.layers[-2::-1], maps[-3::-1], strict=True):
            decoded.append(layer(decoded[-1].movedim(1, -1), skip.movedim(1, -1)).movedim(-1, 1))
        return decoded, self.final(decoded[-1])


def over_channels(norm: nn.Module, volumes: Tensor) -> Tensor:
    """Apply a layer normalisation to the channels of ``(batch, channels, x, y, z)``."""
    return norm(volumes.movedim(1, -1)).movedim(-1, 1)


def window_and_shift(config: AliceConfig, stage: int) -> tuple[int, int]:
    """Return cells along a window's side, and by how many every second block is shifted.

    A window is never larger than the grid that the network is built for, and one that covers it is not shifted.
    """
    side = min(config.roi) // config.strides[stage]
    window = config.window_size[stage]
    return (side, 0) if side <= window else (window, window // 2)


def spread(drop_path: float, depths: Sequence[int]) -> list[list[float]]:
    """Return each block's rate, by stage: evenly from 0 at the first to ``drop_path`` at the last."""
    rates = torch.linspace(0, drop_path, sum(depths)).tolist()
    return [[rates.pop(0) for _ in range(depth)] for depth in depths]


def position_table(config: AliceConfig) -> Tensor:
    """Return what is added to the finest cells, ``(1, cells, channels)``.

    A sixth of the channels holds sines of the place along x, a sixth cosines, and so on for y and z; what is left over
    is zero.
    """
    grid = [side // PATCH for side in config.roi]
    table = torch.zeros(*grid, config.embed_dim)
    waves = config.embed_dim // 6
    if config.position_table == "sinusoid" and waves:
        frequencies = 10_000.0 ** -(torch.arange(waves) / waves)
        places = torch.meshgrid(*(torch.arange(side).float() for side in grid), indexing="ij")
        angles = [place[..., None] * frequencies for place in places]
        table[..., : 6 * waves] = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=-1)
    return table.flatten(0, 2)[None]
