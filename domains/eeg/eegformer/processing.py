"""EEGFormer's processor: recordings to padded batches of spectral tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from domains.eeg.eegformer.regions import regions_of
from domains.eeg.eegformer.spectrum import FrontEnd
from domains.eeg.eegformer.windowing import Conditioning, Window, WindowReader, cut
from domains.eeg.reading import EegReader
from hub.doubts import Doubt
from hub.errors import InvalidInput
from hub.processing import Processor
from hub.reading import Sample

MICROVOLTS = 1e6


class EEGFormerProcessor(Processor):
    """Recordings of any rate, length and channels to spectral tokens, each channel for itself.

    What a recording is brought to (rate, reference, band) is `Conditioning`; how a window becomes tokens is `FrontEnd`,
    where the choices are explained.
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "attention_mask", "amplitude", "regions", "channels"]
    cost_unit = "tokens"
    batch_cost = 8_192

    def __init__(
        self,
        sampling_rate: float = 250.0,
        reference: str = "recorded",
        low: float | None = None,
        high: float | None = None,
        notch: float | None = None,
        window_seconds: float = 12.0,
        stride_seconds: float | None = None,
        spectrum: str = "amplitude",
        fft_scope: str = "window",
        frame_seconds: float = 2.0,
        frame_stride_seconds: float = 0.5,
        taper: str = "none",
        freq_min: float = 0.0,
        freq_max: float = 100.0,
        token_axis: str = "frequency",
        patch_size: int = 32,
        stride: int = 32,
        instance_norm_eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        """Set the front end; see `Conditioning` for the first arguments and `FrontEnd` for the last.

        Args:
            sampling_rate: Hz.
            reference: Electrodes, ``average``, ``longitudinal`` or ``recorded``.
            low: Hz, lower edge of a band-pass filter, or ``None``.
            high: Hz, its upper edge, or ``None``.
            notch: Hz of the mains to filter out, or ``None``.
            window_seconds: Length of a window.
            stride_seconds: From one window of a file to the next; ``None`` for windows that touch.
            spectrum: ``amplitude``, ``log_amplitude`` or ``complex``.
            fft_scope: ``window`` or ``frame``.
            frame_seconds: Length of a frame.
            frame_stride_seconds: From one frame to the next.
            taper: ``none`` or ``hann``.
            freq_min: Hz.
            freq_max: Hz.
            token_axis: ``frequency`` or ``time``.
            patch_size: Bins in a patch.
            stride: Bins from one patch to the next.
            instance_norm_eps: Added to the variance of a spectrum.
            kwargs: transformers' own.

        Raises:
            ValueError: A choice cannot be.
        """
        super().__init__(**kwargs)
        self.sampling_rate = sampling_rate
        self.reference = reference
        self.low, self.high, self.notch = low, high, notch
        self.window_seconds = window_seconds
        self.stride_seconds = window_seconds if stride_seconds is None else stride_seconds
        self.spectrum = spectrum
        self.fft_scope = fft_scope
        self.frame_seconds, self.frame_stride_seconds = frame_seconds, frame_stride_seconds
        self.taper = taper
        self.freq_min, self.freq_max = freq_min, freq_max
        self.token_axis = token_axis
        self.patch_size, self.stride = patch_size, stride
        self.instance_norm_eps = instance_norm_eps
        self._front_end = FrontEnd(
            sampling_rate=sampling_rate,
            window_seconds=window_seconds,
            spectrum=spectrum,
            fft_scope=fft_scope,
            frame_seconds=frame_seconds,
            frame_stride_seconds=frame_stride_seconds,
            taper=taper,
            freq_min=freq_min,
            freq_max=freq_max,
            token_axis=token_axis,
            patch_size=patch_size,
            stride=stride,
            instance_norm_eps=instance_norm_eps,
        )
        if self.stride_seconds <= 0:
            raise ValueError(f"stride_seconds={stride_seconds}: windows have to move on")

    @property
    def front_end(self) -> FrontEnd:
        """How a window becomes tokens."""
        return self._front_end

    @property
    def conditioning(self) -> Conditioning:
        """What a recording is brought to before it is cut."""
        return Conditioning(self.sampling_rate, self.reference, self.low, self.high, self.notch)

    @property
    def window_samples(self) -> int:
        """Samples in a window."""
        return round(self.window_seconds * self.sampling_rate)

    def reader(self) -> WindowReader:
        """Return the domain's reader, cutting recordings to this processor's windows."""
        return WindowReader(EegReader(), self.conditioning, self.window_seconds, self.stride_seconds)

    def cost(self, sample: Sample) -> int:
        """Return the tokens of all windows and channels of a sample."""
        recording = sample.data
        samples = round(recording.seconds * self.sampling_rate)
        windows = max(1, -(-samples // self.window_samples))
        rows, tokens = self._front_end.rows_and_tokens(min(samples, self.window_samples))
        return max(1, windows * len(recording.channels) * rows * tokens)

    def doubts(self, sample: Sample) -> Iterator[Doubt]:
        """Yield whether a window is much shorter, or its band narrower, than what the model learnt from."""
        # The samples of a window are at the model's rate already; the recording's is among its facts.
        rate = float(sample.metadata.get("sampling_rate", sample.data.sampling_rate))
        highest = self.high or self.freq_max
        if rate / 2 < highest:
            text = (
                f"Recorded at {rate:g} Hz: the model reads up to {highest:g} Hz, and finds nothing above {rate / 2:g}."
            )
            yield Doubt(text, "upsampled")
        if sample.data.seconds < self.window_seconds / 2:
            text = f"It lasts {sample.data.seconds:.3g} s; the model learnt from windows of {self.window_seconds:g} s."
            yield Doubt(text, "length_out_of_range")

    def condition(self, sample: Sample) -> Window:
        """Return a sample's recording at this processor's rate, reference and band.

        Raises:
            InvalidInput: It is shorter than one transform; the text names both lengths.
        """
        window = self.conditioning(sample.data)
        if window.signal.shape[1] < self._front_end.transformed:
            raise InvalidInput(
                f"the recording lasts {window.seconds:.3g} s; this model needs at least {self._front_end.shortest:g} s",
                code="too_short",
            )
        return window

    def features(self, signal: Any, regions: Sequence[int]) -> dict[str, Tensor]:
        """Return the tokens of a stretch, cut to as many windows as cover it.

        Args:
            signal: ``(channels, samples)`` float64, microvolts.
            regions: One a channel, see `domains.eeg.eegformer.regions`.

        Returns:
            ``input_values`` ``(rows, tokens, values)``, ``amplitude`` ``(rows, 2)``, and the region and the number of
            each row's channel, ``regions`` and ``channels`` ``(rows,)``.
        """
        spectra = self._front_end(cut(signal, self.window_samples))
        repeats = len(spectra.values) // len(regions)
        return {
            "input_values": spectra.values,
            "amplitude": spectra.amplitude,
            "regions": torch.tensor(list(regions)).repeat(repeats),
            "channels": torch.arange(len(regions)).repeat(repeats),
        }

    def prepare(self, sample: Sample) -> dict[str, Tensor]:
        """Return the tokens of one sample; see `features`.

        Raises:
            InvalidInput: The recording is shorter than one transform.
        """
        window = self.condition(sample)
        return self.features(window.signal * MICROVOLTS, regions_of(window.channels))

    def pad(self, features: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pad rows and tokens to the most there are.

        Returns:
            ``input_values`` ``(batch, rows, tokens, values)``, ``attention_mask`` ``(batch, rows, tokens)`` bool,
            ``amplitude`` ``(batch, rows, 2)``, and ``regions`` and ``channels`` ``(batch, rows)``, -1 where there is no
            row.
        """
        rows = max(f["input_values"].shape[0] for f in features)
        tokens = max(f["input_values"].shape[1] for f in features)
        values = features[0]["input_values"].new_zeros(len(features), rows, tokens, self._front_end.values)
        mask = torch.zeros(len(features), rows, tokens, dtype=torch.bool)
        for place, real, one in zip(values, mask, features, strict=True):
            own_rows, own_tokens = one["input_values"].shape[:2]
            place[:own_rows, :own_tokens] = one["input_values"]
            real[:own_rows, :own_tokens] = True
        return {
            "input_values": values,
            "attention_mask": mask,
            "amplitude": pad_sequence([f["amplitude"] for f in features], batch_first=True),
            **{
                name: pad_sequence([f[name] for f in features], batch_first=True, padding_value=-1)
                for name in ("regions", "channels")
            },
        }
