"""Pretraining batches of TERA: crops of recordings, padded and altered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from domains.speech.tera.alteration import Draws, GeneratorDraws, alter
from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.features import pad_frames
from domains.speech.tera.processing import TeraProcessor
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Collator, Randomness

MAX_DRAWS = 32
"""How often chance is asked to alter something in a batch of very short utterances."""


class TeraCollator(Collator):
    """Recordings to altered frames, the clean frames they came from, and the cells to predict."""

    processor: TeraProcessor
    config: TeraConfig

    def __init__(
        self,
        processor: TeraProcessor,
        config: TeraConfig,
        crop_frames: int = 1500,
        min_frames: int = 201,
    ) -> None:
        """Set how recordings are cut.

        Args:
            processor: Makes the features.
            config: Holds the alteration policy.
            crop_frames: Longer recordings give a random piece of this many frames.
            min_frames: Shorter recordings are left out.

        Raises:
            InvalidRecipe: The model's sizes do not fit the processor's features.
        """
        super().__init__(processor, config)
        dim = processor.features.dim
        if config.input_dim != dim or config.output_dim != dim:
            raise InvalidRecipe(
                f"the processor makes {dim} features a frame; the model reads input_dim={config.input_dim} "
                f"and predicts output_dim={config.output_dim}; pretraining needs all three equal"
            )
        self.crop_frames = crop_frames
        self.min_frames = min_frames

    def cost(self, sample: Sample) -> int:
        """Return the frames that the sample's crop will have; 0 when it has fewer than ``min_frames``."""
        frames = self.processor.cost(sample)
        return 0 if frames < self.min_frames else min(frames, self.crop_frames)

    def prepare(self, sample: Sample) -> Tensor:
        """Return the whole recording at the model's rate and level, ``(samples,)``: decoding is the dear part."""
        return self.processor.features.scale(self.processor.resample(sample))

    def view(self, prepared: Tensor, generator: torch.Generator) -> Tensor:
        """Return the features of a random crop, ``(frames, features)``.

        The level is that of the whole recording, mean and variance are normalised over the crop (the
        published training's order).
        """
        front_end = self.processor.features
        waveform = prepared
        size = self.crop_frames * front_end.hop
        if len(waveform) > size:
            start = int(torch.randint(len(waveform) - size + 1, (), generator=generator))
            waveform = waveform[start : start + size]
        return front_end.frames_of(waveform)

    def collate(self, views: Sequence[Tensor], randomness: Randomness) -> dict[str, Tensor]:
        """Pad and alter one batch; see `collate_from`."""
        draws = [GeneratorDraws(generator) for generator in randomness.samples]
        return self.collate_from(views, draws, GeneratorDraws(randomness.shared))

    def collate_from(self, views: Sequence[Tensor], draws: Sequence[Draws], shared: Draws) -> dict[str, Tensor]:
        """Pad and alter one batch with given draws.

        Utterances in which chance altered nothing are left out: they would add nothing to the loss. When that
        leaves none, chance is asked again.

        Returns:
            ``input_values`` (altered) and ``labels`` (clean), ``(batch, frames, features)``; ``label_mask``,
            the same shape, bool; ``attention_mask`` ``(batch, frames)`` bool.

        Raises:
            InvalidRecipe: The utterances are too short for the policy ever to alter them.
        """
        clean, mask = pad_frames(views)
        for _ in range(MAX_DRAWS):
            frames, label_mask = alter(clean, [len(v) for v in views], self.config, draws, shared)
            scored = label_mask.flatten(1).any(1)
            if scored.any():
                batch = {
                    "input_values": frames,
                    "attention_mask": mask,
                    "labels": clean,
                    "label_mask": label_mask,
                }
                return {name: tensor[scored] for name, tensor in batch.items()}
        raise InvalidRecipe(
            f"nothing is altered in a batch of utterances of at most {clean.shape[1]} frames: raise "
            "pretext.min_frames, or the model's mask_proportion or mask_frequency"
        )
