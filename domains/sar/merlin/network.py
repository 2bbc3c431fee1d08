"""The U-Net of MERLIN and SAR2SAR: Noise2Noise's, with residual learning (Dalsasso et al. 2022, section III)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.sar.merlin.configuration import MerlinConfig

SLOPE = 0.1
"""Of the LeakyReLU after every convolution but the last."""


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


class MerlinUNet(nn.Module):
    """Noisy normalised log-amplitude to its despeckled one; layers have the published names.

    Height and width are multiples of 32.
    """

    def __init__(self, config: MerlinConfig) -> None:
        """Create the 18 convolutions."""
        super().__init__()
        encoder, decoder, (first, second) = config.hidden_size, config.decoder_size, config.head_sizes
        self.enc0 = _convolution(1, encoder)
        self.enc1 = _convolution(encoder, encoder)
        self.enc2 = _convolution(encoder, encoder)
        self.enc3 = _convolution(encoder, encoder)
        self.enc4 = _convolution(encoder, encoder)
        self.enc5 = _convolution(encoder, encoder)
        self.enc6 = _convolution(encoder, encoder)
        self.dec5 = _convolution(2 * encoder, decoder)
        self.dec5b = _convolution(decoder, decoder)
        self.dec4 = _convolution(decoder + encoder, decoder)
        self.dec4b = _convolution(decoder, decoder)
        self.dec3 = _convolution(decoder + encoder, decoder)
        self.dec3b = _convolution(decoder, decoder)
        self.dec2 = _convolution(decoder + encoder, decoder)
        self.dec2b = _convolution(decoder, decoder)
        self.dec1a = _convolution(decoder + 1, first)
        self.dec1b = _convolution(first, second)
        self.dec1 = _convolution(second, 1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the encoder's six levels.

        Args:
            image: ``(batch, 1, rows, columns)``.

        Returns:
            ``(batch, channels, rows / k, columns / k)`` with k = 2, 4, 8, 16, 32 and again 32.
        """
        state = _active(self.enc1(_active(self.enc0(image))))
        levels = [F.max_pool2d(state, 2)]
        for layer in (self.enc2, self.enc3, self.enc4, self.enc5):
            levels.append(F.max_pool2d(_active(layer(levels[-1])), 2))
        levels.append(_active(self.enc6(levels[-1])))
        return levels

    def decode(self, image: Tensor, levels: list[Tensor]) -> Tensor:
        """Return the estimated speckle, ``(batch, 1, rows, columns)``, from what `encode` returned."""
        half, quarter, eighth, sixteenth, _, state = levels
        for skip, first, second in (
            (sixteenth, self.dec5, self.dec5b),
            (eighth, self.dec4, self.dec4b),
            (quarter, self.dec3, self.dec3b),
            (half, self.dec2, self.dec2b),
            (image, self.dec1a, self.dec1b),
        ):
            state = _active(second(_active(first(_joined(state, skip)))))
        return self.dec1(state)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(batch, 1, rows, columns)`` to the same shape: the image less the estimated speckle."""
        return image - self.decode(image, self.encode(image))


def _active(state: Tensor) -> Tensor:
    return F.leaky_relu(state, SLOPE)


def _joined(state: Tensor, skip: Tensor) -> Tensor:
    """Double the resolution and put the skip's channels behind."""
    return torch.cat([F.interpolate(state, scale_factor=2, mode="nearest"), skip], dim=1)
