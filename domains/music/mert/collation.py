"""Pretraining batches of MERT: crops with their teacher's codes, spans to mask, and noise to mix in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from domains.music.mert.configuration import MertConfig
from domains.music.mert.mixture import draw_pieces
from domains.music.mert.processing import MertProcessor, normalised
from domains.music.mert.targets import EncodecTeacher, KMeansTeacher, Teacher
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.ssl import span_mask
from hub.training.collation import Collator, Randomness

TEACHERS = ("encodec", "kmeans")


class MertCollator(Collator):
    """Recordings to crops of one length, and what is to be predicted in them."""

    processor: MertProcessor
    config: MertConfig

    def __init__(
        self,
        processor: MertProcessor,
        config: MertConfig,
        crop_samples: int = 120_000,
        min_samples: int = 72_000,
        normalize: bool | None = None,
        teacher: str = "encodec",
        codec: str = "facebook/encodec_24khz",
        centroids: str = "",
        mask_probability: float = 0.8,
        mask_span: int = 5,
        noise_probability: float = 0.5,
        noise_pieces: int = 3,
        noise_shortest: int = 12_000,
        noise_longest: int = 24_000,
    ) -> None:
        """Set the crops, the teacher and the masks; the defaults are those of MERT-v1-95M.

        Args:
            processor: Gives the waveforms.
            config: Of the model.
            crop_samples: Longer recordings give a random piece of this many samples, on the grid of frames.
            min_samples: Shorter recordings are left out; those between are padded with zeros.
            normalize: Whether recordings are brought to unit variance; the processor's ``do_normalize`` if left out.
                The published training did not.
            teacher: ``"encodec"`` or ``"kmeans"``.
            codec: Folder or repository of the EnCodec model.
            centroids: File of `targets.save_centroids`; without one, centroids of harmonic tones.
            mask_probability: Spans times their length over frames.
            mask_span: Frames of a masked span.
            noise_probability: That pieces of other clips are added to a clip in training.
            noise_pieces: Most of them.
            noise_shortest: Fewest samples of a piece.
            noise_longest: Most samples of a piece.

        Raises:
            InvalidRecipe: There is no such teacher, or processor, model and crops do not fit.
        """
        super().__init__(processor, config)
        if teacher not in TEACHERS:
            raise InvalidRecipe(f"pretext.teacher {teacher!r} is none of {', '.join(TEACHERS)}")
        ours = (config.sample_rate, config.hop, config.receptive_field)
        if ours != (processor.sampling_rate, processor.hop, processor.receptive_field):
            raise InvalidRecipe(
                f"the model has sample_rate, hop and receptive_field of {ours}; the processor's differ: "
                f"{(processor.sampling_rate, processor.hop, processor.receptive_field)}"
            )
        # One frame more than a span, or there is nowhere to start one.
        least = config.receptive_field + config.hop * mask_span
        if not least <= min_samples <= crop_samples:
            raise InvalidRecipe(f"pretext.min_samples must lie from {least} to crop_samples ({crop_samples})")
        self.crop_samples, self.min_samples = crop_samples, min_samples
        self.normalize = processor.do_normalize if normalize is None else normalize
        self.kind, self.codec, self.centroids = teacher, codec, centroids
        self.mask_probability, self.mask_span = mask_probability, mask_span
        self.noise = (noise_probability, noise_pieces, noise_shortest, noise_longest)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, loaded when the first recording needs it."""
        if self.kind == "encodec":
            return EncodecTeacher(self.codec, self.config.codebooks)
        if self.config.codebooks != 2:
            raise InvalidRecipe(f"teacher kmeans gives 2 codebooks; the model has codebooks={self.config.codebooks}")
        if self.centroids:
            return KMeansTeacher.from_file(Path(self.centroids))
        return KMeansTeacher.of_tones(self.config.sample_rate, self.config.hop, self.config.codebook_size)

    def cost(self, sample: Sample) -> int:
        """Return the frames that the sample's crop will have; 0 when it is shorter than ``min_samples``."""
        frames = self.processor.cost(sample)
        return 0 if frames < self.config.frames(self.min_samples) else self.config.frames(self.crop_samples)

    def prepare(self, sample: Sample) -> dict[str, Any]:
        """Return the whole recording and the teacher's codes for it: what is worth keeping between passes."""
        waveform = self.processor.waveform(sample)
        codes = self.teacher.codes(waveform, self.config.sample_rate, self.config.hop)
        if int(codes.max()) >= self.config.codebook_size:
            raise InvalidRecipe(
                f"the teacher gave code {int(codes.max())}; the model has codebook_size={self.config.codebook_size}"
            )
        return {"waveform": waveform, "codes": codes, "teacher": self.teacher.name}

    def view(self, prepared: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a random crop, ``(samples,)``, and its codes, ``(frames, codebooks)``.

        Raises:
            InvalidRecipe: What was kept is of another teacher.
        """
        if prepared["teacher"] != self.teacher.name:
            raise InvalidRecipe(
                f"the cache holds codes of another teacher ({prepared['teacher']}); this run's is {self.teacher.name}: "
                "give another cache folder"
            )
        waveform, codes, hop = prepared["waveform"], prepared["codes"], self.config.hop
        if self.normalize:
            waveform = normalised(waveform)
        spare = max(0, len(waveform) - self.crop_samples) // hop
        start = int(torch.randint(spare + 1, (), generator=generator))
        crop = waveform[start * hop : start * hop + self.crop_samples]
        return crop, codes[start : start + self.config.frames(len(crop))]

    def collate(self, views: Sequence[tuple[Tensor, Tensor]], randomness: Randomness) -> dict[str, Tensor]:
        """Pad one batch, and draw its masks and noise, each clip's from its own generator.

        Returns:
            ``input_values`` and ``attention_mask``, ``(batch, crop_samples)``; ``codes`` ``(batch, frames, codebooks)``
            int64; ``masked`` ``(batch, frames)`` bool; ``noise`` ``(batch, pieces, 3)``, see `mixture.draw_pieces`.
        """
        frames = self.config.frames(self.crop_samples)
        batch = {
            "input_values": torch.zeros(len(views), self.crop_samples),
            "attention_mask": torch.zeros(len(views), self.crop_samples, dtype=torch.bool),
            "codes": torch.zeros(len(views), frames, self.config.codebooks, dtype=torch.long),
            "masked": torch.zeros(len(views), frames, dtype=torch.bool),
        }
        for row, ((waveform, codes), generator) in enumerate(zip(views, randomness.samples, strict=True)):
            batch["input_values"][row, : len(waveform)] = waveform
            batch["attention_mask"][row, : len(waveform)] = True
            batch["codes"][row, : len(codes)] = codes
            batch["masked"][row, : len(codes)] = span_mask(
                1, len(codes), probability=self.mask_probability, span=self.mask_span, generator=generator
            )[0]
        batch["noise"] = torch.stack([draw_pieces(generator, *self.noise) for generator in randomness.samples])
        return batch
