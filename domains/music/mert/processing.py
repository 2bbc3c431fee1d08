"""MERT's processor: recordings of any rate to mono waveforms at the model's, loudness taken out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from domains.music.audio import QUALITIES, Audio, mono_at
from domains.music.levels import TELEPHONE_RATE
from domains.music.reading import MusicReader
from hub.doubts import Doubt
from hub.processing import Processor
from hub.reading import Sample

LONGEST = 30.0
"""Seconds beyond which a recording is longer than the clips that MERT is used and tested with."""


def normalised(waveform: Tensor) -> Tensor:
    """Return a waveform with zero mean and unit variance; digital silence becomes zeros."""
    return (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-7).sqrt()


class MertProcessor(Processor):
    """Recordings to waveforms.

    Loudness: with ``do_normalize`` (as in the published settings) each whole recording is brought to zero mean and unit
    variance before it is cut to windows, so a gain changes nothing, and a quiet passage stays quiet beside a loud one.
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "attention_mask"]
    cost_unit = "frames"
    batch_cost = 1_500

    def __init__(
        self,
        sampling_rate: int = 24_000,
        do_normalize: bool = True,
        resampling: str = "VHQ",
        hop: int = 320,
        receptive_field: int = 400,
        **kwargs: Any,
    ) -> None:
        """Set the rate and level.

        Args:
            sampling_rate: Hz that recordings are resampled to.
            do_normalize: Whether each recording gets zero mean and unit variance.
            resampling: Recipe of the resampler, one of `domains.music.audio.QUALITIES`.
            hop: Samples between two of the model's frames.
            receptive_field: Samples of one frame: shorter recordings are filled with silence up to it.
            kwargs: Attributes that transformers keeps in a saved processor.

        Raises:
            ValueError: There is no such resampling.
        """
        if resampling not in QUALITIES:
            raise ValueError(f"resampling={resampling!r}: choose one of {', '.join(QUALITIES)}")
        super().__init__(**kwargs)
        self.sampling_rate = sampling_rate
        self.do_normalize = do_normalize
        self.resampling = resampling
        self.hop = hop
        self.receptive_field = receptive_field

    def reader(self) -> MusicReader:
        """Return the music domain's reader."""
        return MusicReader()

    def frames(self, samples: int) -> int:
        """Return the model's frames of a waveform at its rate; 0 when it is too short for one."""
        return max(0, (samples - self.receptive_field) // self.hop + 1)

    def cost(self, sample: Sample) -> int:
        """Return the frames that the sample will have."""
        audio: Audio = sample.data
        return max(1, self.frames(round(audio.frames * self.sampling_rate / audio.sampling_rate)))

    def doubts(self, sample: Sample) -> Iterator[Doubt]:
        """Yield whether the recording's band is narrower, or its length greater, than what the model learnt from."""
        audio: Audio = sample.data
        # Telephone rates the reader has spoken of already.
        if TELEPHONE_RATE < audio.sampling_rate < self.sampling_rate:
            text = (
                f"Recorded at {audio.sampling_rate} Hz: the model, which reads {self.sampling_rate} Hz, sees nothing "
                f"above {audio.sampling_rate // 2} Hz."
            )
            yield Doubt(text, "upsampled")
        if audio.seconds > LONGEST:
            text = f"It lasts {audio.seconds:.0f} s: one vector is the mean over many windows, and parts may differ."
            yield Doubt(text, "length_out_of_range")

    def waveform(self, sample: Sample) -> Tensor:
        """Return the mono recording at the model's rate and its own level, ``(samples,)`` float32."""
        audio: Audio = sample.data
        return torch.tensor(mono_at(audio, self.sampling_rate, self.resampling))

    def prepare(self, sample: Sample) -> Tensor:
        """Return the waveform that the model reads, ``(samples,)`` float32, with silence after it up to one frame."""
        waveform = self.waveform(sample)
        waveform = normalised(waveform) if self.do_normalize else waveform
        return F.pad(waveform, (0, max(0, self.receptive_field - len(waveform))))

    def pad(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pad waveforms with zeros to the longest.

        Returns:
            ``input_values`` and ``attention_mask`` (bool), both ``(batch, samples)``.
        """
        lengths = torch.tensor([len(f) for f in features])
        values = pad_sequence(list(features), batch_first=True)
        return {"input_values": values, "attention_mask": torch.arange(values.shape[1]) < lengths.unsqueeze(1)}
