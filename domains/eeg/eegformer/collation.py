"""Pretraining batches of EEGFormer: random windows of recordings, and the views that the objective compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.objectives.frames import fourier_view, scalogram_view
from domains.eeg.eegformer.processing import MICROVOLTS, EEGFormerProcessor
from domains.eeg.eegformer.regions import regions_of
from domains.eeg.eegformer.spectrum import instance_norm
from domains.eeg.recording import Recording
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Collator, Randomness

VIEW_EPS = 1e-12
"""Added to a channel's variance, in square microvolts, before its expansions."""


class EEGFormerCollator(Collator):
    """Recordings to tokens of a random window, of some of their channels."""

    processor: EEGFormerProcessor
    config: EEGFormerConfig

    def __init__(
        self,
        processor: EEGFormerProcessor,
        config: EEGFormerConfig,
        shortest_seconds: float = 0.0,
        max_channels: int = 16,
        shift_seconds: float = 1.0,
        noise: float = 0.1,
        bin_dropout: float = 0.2,
    ) -> None:
        """Set how windows are drawn.

        Args:
            processor: Makes the tokens.
            config: Names the objective.
            shortest_seconds: A view's length is drawn between this and the processor's window; 0 for always the window.
            max_channels: Of a recording with more channels so many are drawn.
            shift_seconds: Largest shift between MYOW's two views of a window.
            noise: Standard deviation of the white noise in MYOW's views, as a share of the channel's.
            bin_dropout: Share of the values that MYOW's views lose, set to their mean, zero.

        Raises:
            InvalidRecipe: The model's sizes do not fit the processor's tokens.
        """
        super().__init__(processor, config)
        front_end = processor.front_end
        if config.patch_size != front_end.values or config.max_tokens < front_end.tokens:
            raise InvalidRecipe(
                f"the processor makes rows of {front_end.tokens} tokens of {front_end.values} numbers; the model reads "
                f"patch_size={config.patch_size} and has positions for max_tokens={config.max_tokens}"
            )
        full = config.objective == "frames" or front_end.fft_scope == "window"
        self.window = processor.window_samples
        # Expansions, and transforms of a whole window, have the length of the window.
        self.shortest = self.window if full else front_end.transformed
        self.drawn_from = round(shortest_seconds * processor.sampling_rate) or self.window
        if not self.shortest <= self.drawn_from <= self.window:
            raise InvalidRecipe(
                f"shortest_seconds={shortest_seconds}: must be 0, or lie between "
                f"{self.shortest / processor.sampling_rate:g} and {processor.window_seconds:g} s"
            )
        if config.objective == "frames" and front_end.rows_and_tokens(self.window)[0] > 1:
            raise InvalidRecipe("frame projections expand whole windows: use token_axis 'time', or fft_scope 'window'")
        self.max_channels = max_channels
        self.shift = round(shift_seconds * processor.sampling_rate)
        self.noise = noise
        self.bin_dropout = bin_dropout

    def cost(self, sample: Sample) -> int:
        """Return the tokens of a full view; 0 where the recording is too short for one."""
        recording: Recording = sample.data
        samples = round(recording.seconds * self.processor.sampling_rate)
        if samples < self.shortest:
            return 0
        rows, tokens = self.processor.front_end.rows_and_tokens(min(samples, self.window))
        return min(len(recording.channels), self.max_channels) * rows * tokens

    def prepare(self, sample: Sample) -> dict[str, Tensor]:
        """Return the conditioned recording: ``signal`` ``(channels, samples)`` microvolts, ``regions``, ``origin``."""
        window = self.processor.condition(sample)
        return {
            "signal": torch.from_numpy(np.ascontiguousarray(window.signal * MICROVOLTS)).float(),
            "regions": torch.tensor(regions_of(window.channels)),
            "origin": torch.tensor(window.origin),
        }

    def view(self, prepared: dict[str, Tensor], generator: torch.Generator) -> dict[str, Any]:
        """Return the features of a random window of random channels, and those of its other views."""
        signal, regions = prepared["signal"], prepared["regions"]
        if len(signal) > self.max_channels:
            chosen = torch.randperm(len(signal), generator=generator)[: self.max_channels].sort().values
            signal, regions = signal[chosen], regions[chosen]
        length = min(self.drawn_from + _below(self.window - self.drawn_from + 1, generator), signal.shape[1])
        start = _below(signal.shape[1] - length + 1, generator)
        view: dict[str, Any] = {"first": self._features(signal[:, start : start + length], regions, generator)}
        if self.config.objective == "myow":
            shift = _below(2 * self.shift + 1, generator) - self.shift
            moved = min(max(start + shift, 0), signal.shape[1] - length)
            view["second"] = self._features(signal[:, moved : moved + length], regions, generator)
            view["draw"] = torch.rand((), generator=generator)
            view["origin"] = prepared["origin"]
        elif self.config.objective == "frames":
            flat, _, _ = instance_norm(signal[:, start : start + length].double(), VIEW_EPS)
            front_end, rate = self.processor.front_end, self.processor.sampling_rate
            view["fourier"] = fourier_view(flat, rate, front_end.freq_max)
            lowest = max(front_end.freq_min, front_end.frequencies[1], 1.0)
            view["scalogram"] = scalogram_view(flat, rate, lowest, front_end.freq_max)
        return view

    def _features(self, signal: Tensor, regions: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return a window's tokens; for MYOW of a noisy window, with holes."""
        if self.config.objective != "myow":
            return self.processor.features(signal.double().numpy(), regions.tolist())
        deviation = signal.std(dim=1, correction=0, keepdim=True)
        signal = signal + self.noise * deviation * torch.randn(signal.shape, generator=generator)
        features = self.processor.features(signal.double().numpy(), regions.tolist())
        values = features["input_values"]
        kept = torch.rand(values.shape, generator=generator) >= self.bin_dropout
        return {**features, "input_values": values * kept}

    def collate(self, views: Sequence[dict[str, Any]], randomness: Randomness) -> dict[str, Tensor]:
        """Pad the views of one batch.

        Returns:
            What the processor's ``pad`` returns, and for MYOW ``second_values``, ``origin`` and ``draw``, for frame
            projections ``fourier`` ``(batch, rows, 2, bins)`` and ``scalogram`` ``(batch, rows, scales, frames)``.
        """
        batch = self.processor.pad([view["first"] for view in views])
        if self.config.objective == "myow":
            batch["second_values"] = self.processor.pad([view["second"] for view in views])["input_values"]
            batch |= {name: torch.stack([view[name] for view in views]) for name in ("origin", "draw")}
        elif self.config.objective == "frames":
            for name in ("fourier", "scalogram"):
                batch[name] = pad_sequence([view[name] for view in views], batch_first=True)
        return batch


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(count, 1), (), generator=generator))
