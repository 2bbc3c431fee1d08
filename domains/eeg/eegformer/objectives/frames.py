"""Frame projections: a window against its own orthonormal and overcomplete expansions (arXiv 2510.22655).

No augmentation is needed: the same window in another basis is the other view. The encoder's embedding is held against
that of the Fourier transform (an orthonormal basis) and that of a scalogram (an overcomplete frame); after training
only the encoder is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.objectives import Objective, Rows, by_sample
from hub.modeling import masked_mean
from hub.ssl.contrastive import nt_xent
from hub.ssl.distributed import mean_share

if TYPE_CHECKING:
    from domains.eeg.eegformer.modeling import EEGFormerModel

FOURIER_ROWS = 2
"""Real and imaginary part."""
SCALES = 32
"""Wavelets of the scalogram, spaced evenly on a logarithmic scale."""
SCALOGRAM_RATE = 10.0
"""Hz at which the modulus of the wavelet coefficients is kept."""
CYCLES = 6.0
"""Length of a wavelet: its frequency times the deviation of its envelope, times 2 pi."""
MAPPER_WIDTH = 16


def fourier_view(signal: Tensor, sampling_rate: float, highest: float) -> Tensor:
    """Return orthonormal Fourier coefficients, ``(channels, 2, bins)``, up to ``highest`` Hz.

    Args:
        signal: ``(channels, samples)``, normalised.
        sampling_rate: Hz.
        highest: Hz.
    """
    bins = torch.fft.rfft(signal, norm="ortho")
    kept = bins[:, : int(highest * signal.shape[1] / sampling_rate) + 1]
    return torch.stack([kept.real, kept.imag], dim=1).float()


def scalogram_view(signal: Tensor, sampling_rate: float, lowest: float, highest: float) -> Tensor:
    """Return the modulus of analytic Morlet coefficients, ``(channels, SCALES, frames)``.

    Args:
        signal: ``(channels, samples)``, normalised.
        sampling_rate: Hz.
        lowest: Hz, of the longest wavelet.
        highest: Hz, of the shortest.
    """
    samples = signal.shape[1]
    centres = torch.logspace(0, 1, SCALES, base=highest / lowest, dtype=signal.dtype)[:, None] * lowest
    frequencies = torch.fft.fftfreq(samples, 1 / sampling_rate, dtype=signal.dtype)
    # Analytic: nothing at negative frequencies, so that the modulus is an envelope.
    response = 2 * torch.exp(-0.5 * (CYCLES * (frequencies / centres - 1)) ** 2) * (frequencies > 0)
    envelope = torch.fft.ifft(torch.fft.fft(signal)[:, None] * response).abs()
    return F.avg_pool1d(envelope, max(1, round(sampling_rate / SCALOGRAM_RATE))).float()


class ViewEncoder(nn.Module):
    """A small convolutional network over one expansion, ``(batch, rows, length)`` to ``(batch, width)``."""

    def __init__(self, rows: int, width: int) -> None:
        """Create the layers."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(rows, 32, 9, stride=3, padding=4), nn.GELU(), nn.Conv1d(32, 64, 9, stride=3, padding=4), nn.GELU()
        )
        self.output = nn.Linear(64, width)

    def forward(self, view: Tensor) -> Tensor:
        """Return the mean over the length, projected."""
        return self.output(self.layers(view).mean(-1))


class Mapper(nn.Module):
    """Predicts one embedding from another: a narrow convolutional network along the features, ``(batch, width)``."""

    def __init__(self, hidden: int = MAPPER_WIDTH) -> None:
        """Create the layers."""
        super().__init__()
        self.down = nn.Conv1d(1, hidden, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose1d(hidden, 1, 3, stride=2, padding=1, output_padding=1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map ``(batch, width)`` to the same shape."""
        return self.up(F.relu(self.down(embedding[:, None])))[:, 0]


class FrameProjections(Objective):
    """Contrast of three embeddings of a window, two by two, and mappers that predict two of them from the encoder's.

    Which of the embeddings is predicted, and from which, follows the published code: both sides are unit vectors, and
    the mean error is divided by the batch once more.
    """

    def __init__(self, config: EEGFormerConfig) -> None:
        """Create projection, view encoders and mappers."""
        super().__init__()
        width = config.projection_size
        self.temperature = config.temperature
        self.project = nn.Linear(config.hidden_size, width)
        self.fourier = ViewEncoder(FOURIER_ROWS, width)
        self.wavelet = ViewEncoder(SCALES, width)
        self.to_fourier = Mapper()
        self.to_wavelet = Mapper()

    def losses(self, own: Tensor, fourier: Tensor, wavelet: Tensor) -> dict[str, Tensor]:
        """Return the five terms of three embeddings ``(batch, width)``; their sum is the loss."""
        own, fourier, wavelet = (F.normalize(z, dim=-1) for z in (own, fourier, wavelet))
        return {
            "contrast_fourier": nt_xent(own, fourier, temperature=self.temperature),
            "contrast_wavelet": nt_xent(own, wavelet, temperature=self.temperature),
            "contrast_views": nt_xent(wavelet, fourier, temperature=self.temperature),
            "map_fourier": mean_share((self.to_fourier(own) - fourier).abs()) / len(own),
            "map_wavelet": mean_share((self.to_wavelet(own) - wavelet).abs()) / len(own),
        }

    def forward(self, model: EEGFormerModel, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one batch and its terms."""
        own = self.project(by_sample(masked_mean(model.tokens_of(rows.states), rows.mask), rows.real))
        fourier, wavelet = (
            by_sample(encoder(rows.views[name][rows.real]), rows.real)
            for name, encoder in (("fourier", self.fourier), ("scalogram", self.wavelet))
        )
        terms = self.losses(own, fourier, wavelet)
        return torch.stack(list(terms.values())).sum(), terms
