"""The other backbone: MONAI's SwinUNETR, whose encoder public checkpoints of volumes share."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

from domains.medical.alice.configuration import PATCH, AliceConfig


def swin_encoder(config: AliceConfig) -> SwinTransformer:
    """Return MONAI's encoder: ``(batch, 1, x, y, z)`` to five maps, finest first, each layer-normalised."""
    return SwinTransformer(
        in_chans=1,
        embed_dim=config.embed_dim,
        window_size=list(config.window_size[:3]),
        patch_size=[PATCH] * 3,
        depths=config.depths,
        num_heads=config.num_heads,
        mlp_ratio=float(config.mlp_ratio),
        drop_path_rate=float(config.drop_path),
        use_v2=config.use_v2,
    )


class SwinDecoder(nn.Module):
    """SwinUNETR's convolutional decoder with one output channel, under MONAI's names."""

    def __init__(self, config: AliceConfig) -> None:
        """Create the blocks.

        Raises:
            ValueError: The deepest map would be a single cell, over which nothing can be normalised.
        """
        super().__init__()
        if max(config.roi) <= config.strides[-1]:
            raise ValueError(
                f"roi={config.roi}: pretraining a swin_unetr needs a side of at least {2 * config.strides[-1]} voxels"
            )
        size = config.embed_dim

        def beside(inputs: int, outputs: int) -> UnetrBasicBlock:
            return UnetrBasicBlock(3, inputs, outputs, kernel_size=3, stride=1, norm_name="instance", res_block=True)

        def up(inputs: int, outputs: int) -> UnetrUpBlock:
            return UnetrUpBlock(
                3, inputs, outputs, kernel_size=3, upsample_kernel_size=2, norm_name="instance", res_block=True
            )

        self.encoder1, self.encoder2 = beside(1, size), beside(size, size)
        self.encoder3, self.encoder4 = beside(2 * size, 2 * size), beside(4 * size, 4 * size)
        self.encoder10 = beside(16 * size, 16 * size)
        self.decoder5, self.decoder4 = up(16 * size, 8 * size), up(8 * size, 4 * size)
        self.decoder3, self.decoder2 = up(4 * size, 2 * size), up(2 * size, size)
        self.decoder1 = up(size, size)
        self.out = UnetOutBlock(3, size, 1)
        self.token_width = 8 * size

    def deepest(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the deepest decoder map alone, ``(batch, token_width, x, y, z)``."""
        return self.decoder5(self.encoder10(maps[4]), maps[3])

    def forward(self, volumes: Tensor, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode a pyramid.

        Args:
            volumes: ``(batch, 1, x, y, z)``, which it came from.
            maps: Five, finest first.

        Returns:
            Decoder maps ``(batch, channels, ...)``, deepest first, and voxels ``(batch, 1, x, y, z)``.
        """
        decoded = [self.deepest(maps)]
        decoded.append(self.decoder4(decoded[-1], self.encoder4(maps[2])))
        decoded.append(self.decoder3(decoded[-1], self.encoder3(maps[1])))
        decoded.append(self.decoder2(decoded[-1], self.encoder2(maps[0])))
        decoded.append(self.decoder1(decoded[-1], self.encoder1(volumes)))
        return decoded, self.out(decoded[-1])
