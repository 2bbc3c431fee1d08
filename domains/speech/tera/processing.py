"""TERA's processor: recordings to padded batches of acoustic frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature

from domains.speech.reading import AudioReader, Waveform
from domains.speech.tera.features import FrontEnd, pad_frames
from hub.doubts import Doubt
from hub.errors import InvalidInput
from hub.processing import Processor
from hub.reading import Sample

FRONT_ENDS = ("mel", "kaldi")
_ONE_NUMBER = int | float | str | np.number | None  # what a list that is itself a waveform (or no good) begins with


class TeraProcessor(Processor):
    """Waveforms of any rate to normalised frames every 10 ms.

    ``processor(samples)`` takes what a reader yields; ``processor(waveform, sampling_rate=16000)`` takes one
    array or a list of arrays.
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "attention_mask"]
    cost_unit = "frames"
    batch_cost = 1_024  # measured: on one CPU thread 8,192 takes 1.5 to 2 times as long

    def __init__(
        self,
        front_end: str = "mel",
        sampling_rate: int = 16_000,
        n_mels: int = 80,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        n_fft: int = 400,
        level: float = -25.0,
        deltas: int | None = None,
        delta_window: int = 5,
        cmvn: bool = True,
        min_seconds: float = 0.05,
        **kwargs: Any,
    ) -> None:
        """Set the front end; the defaults are those of the published log-mel models.

        Args:
            front_end: ``"mel"`` or ``"kaldi"``, see `FrontEnd`.
            sampling_rate: Hz that recordings are resampled to.
            n_mels: Mel bands.
            window_ms: Analysis window, milliseconds.
            hop_ms: Step between frames, milliseconds.
            n_fft: FFT length of the mel front end, samples.
            level: Level that the mel front end scales an utterance to, dB.
            deltas: Orders of deltas to append; ``None`` for 0 (mel) or 2 (kaldi).
            delta_window: Frames of the delta regression.
            cmvn: Normalise mean and variance of each column over the utterance.
            min_seconds: Shortest recording to accept.
            kwargs: Attributes that transformers keeps in a saved processor.

        Raises:
            ValueError: There is no such front end.
        """
        if front_end not in FRONT_ENDS:
            raise ValueError(f"front_end={front_end!r}: choose one of {', '.join(FRONT_ENDS)}")
        super().__init__(**kwargs)
        self.front_end = front_end
        self.sampling_rate = sampling_rate
        self.n_mels = n_mels
        self.window_ms = window_ms
        self.hop_ms = hop_ms
        self.n_fft = n_fft
        self.level = level
        self.deltas = (2 if front_end == "kaldi" else 0) if deltas is None else deltas
        self.delta_window = delta_window
        self.cmvn = cmvn
        self.min_seconds = min_seconds

    @property
    def features(self) -> FrontEnd:
        """The front end with these settings."""
        return FrontEnd(
            kind=self.front_end,
            sampling_rate=self.sampling_rate,
            n_mels=self.n_mels,
            n_fft=self.n_fft,
            window=round(self.window_ms * self.sampling_rate / 1000),
            hop=round(self.hop_ms * self.sampling_rate / 1000),
            level=self.level,
            deltas=self.deltas,
            delta_window=self.delta_window,
            cmvn=self.cmvn,
        )

    @property
    def shortest(self) -> float:
        """Shortest recording that is taken, seconds: ``min_seconds``, or what the front end cannot do without."""
        # One sample to spare, since resampling rounds.
        return max(self.min_seconds, (self.features.min_samples + 1) / self.sampling_rate)

    def reader(self) -> AudioReader:
        """Return the speech domain's reader, with this processor's shortest length."""
        return AudioReader(min_seconds=self.shortest)

    def cost(self, sample: Sample) -> int:
        """Return the frames that the sample will have."""
        waveform: Waveform = sample.data
        samples = round(len(waveform.samples) * self.sampling_rate / waveform.sampling_rate)
        return max(1, self.features.frames(samples))

    def doubts(self, sample: Sample) -> Iterator[Doubt]:
        """Yield whether the recording's band is narrower than the model's."""
        rate = sample.data.sampling_rate
        if rate < self.sampling_rate:
            own = self.sampling_rate
            text = f"Recorded at {rate} Hz: the model, which reads {own} Hz, finds nothing above {rate // 2} Hz."
            yield Doubt(text, "upsampled")

    def resample(self, sample: Sample) -> Tensor:
        """Return the waveform at this processor's rate, ``(samples,)`` float32.

        Raises:
            InvalidInput: The recording is shorter than ``shortest``; the text names both lengths.
        """
        waveform: Waveform = sample.data
        if waveform.seconds < self.shortest:
            raise InvalidInput(
                f"the recording lasts {waveform.seconds:.4f} s; at least {self.shortest:g} s is needed",
                code="too_short",
            )
        return torch.tensor(waveform.at_rate(self.sampling_rate))

    def prepare(self, sample: Sample) -> Tensor:
        """Return the features of one recording, ``(frames, features)`` float32.

        Raises:
            InvalidInput: The recording is shorter than ``shortest``.
        """
        return self.features(self.resample(sample))

    def pad(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pad frames to the longest.

        Returns:
            ``input_values`` ``(batch, frames, features)`` and ``attention_mask`` ``(batch, frames)`` bool.
        """
        values, mask = pad_frames(features)
        return {"input_values": values, "attention_mask": mask}

    def as_samples(self, value: Any, sampling_rate: int | None = None) -> list[Sample]:
        """Return samples from samples, plain forms, or bare waveforms with their rate; one or a list of them.

        Raises:
            InvalidInput: A waveform came without its rate, or is not usable.
        """
        many = isinstance(value, list | tuple) and len(value) > 0 and not isinstance(value[0], _ONE_NUMBER)
        values = list(value) if many else [value]
        if all(isinstance(v, Sample) for v in values):
            return values
        reader, samples = self.reader(), []
        for index, one in enumerate(values):
            name = f"input[{index}]" if many else "input"
            if not isinstance(one, dict):
                if sampling_rate is None:
                    raise InvalidInput(
                        "a bare waveform needs its rate: pass sampling_rate=..., the Hz it was recorded at",
                        code="missing_sampling_rate",
                        source=name,
                    )
                one = {"samples": one, "sampling_rate": sampling_rate}
            samples += list(reader.parse(one, name))
        return samples

    def __call__(  # type: ignore[override]
        self, samples: Any, sampling_rate: int | None = None, return_tensors: str = "pt"
    ) -> BatchFeature:
        """Prepare and pad in one call.

        Args:
            samples: One or many `Sample`, waveforms (arrays, tensors or lists of numbers, mono), or plain
                forms.
            sampling_rate: Hz of bare waveforms; they are resampled when it differs from the processor's.
            return_tensors: Only ``"pt"``.

        Raises:
            InvalidInput: See `as_samples` and `prepare`.
        """
        return super().__call__(self.as_samples(samples, sampling_rate), return_tensors=return_tensors)
