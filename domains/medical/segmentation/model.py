"""What makes an encoder's class able to segment: a decoder where its configuration describes one, and a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from domains.medical.segmentation.files import class_file
from domains.medical.segmentation.grids import grid_of
from hub.modeling import EmbeddingModel, TaskFile
from hub.reading import Sample

if TYPE_CHECKING:
    from domains.medical.segmentation.decoder import PyramidDecoder

SECTION = "segmentation"
"""Key of ``config.json`` under which a decoder is described; a checkpoint without it has none."""
PREFIX = "segmenter."
"""Of the decoder's tensors."""


@dataclass(frozen=True)
class SegmentationSpec:
    """A decoder, as far as it must be known to build it and to read its output.

    Attributes:
        classes: Names of classes 0 (background), 1 and so on.
        dimensions: 2, slice by slice, or 3, window by window.
        channels: Of what the encoder is given.
        widths: Channels of its maps, finest first.
        width: See `PyramidDecoder`.
    """

    classes: Sequence[str]
    dimensions: int
    channels: int
    widths: Sequence[int]
    width: int

    def to_dict(self) -> dict[str, Any]:
        """Return what the constructor takes, fit for JSON."""
        return {**asdict(self), "classes": list(self.classes), "widths": list(self.widths)}

    def decoder(self) -> PyramidDecoder:
        """Return a decoder with fresh weights."""
        from domains.medical.segmentation.decoder import PyramidDecoder  # monai is slow to import

        return PyramidDecoder(self.dimensions, self.channels, self.widths, len(self.classes), self.width)


class SegmentingModel(EmbeddingModel):
    """Base of encoders with feature maps: a checkpoint whose configuration describes a decoder has it, and ``segment``.

    A subclass implements `pyramid`.
    """

    def __init__(self, config: Any) -> None:
        """Create the decoder, if there is one."""
        super().__init__(config)
        section = getattr(config, SECTION, None)
        self.segmentation = None if section is None else SegmentationSpec(**section)
        if self.segmentation is not None:
            self.segmenter = self.segmentation.decoder()
            self.tasks = {**type(self).tasks, "segment": "segment"}

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the maps of slices or windows as the processor gives them, finest first."""
        raise NotImplementedError

    def segment_logits(self, images: Tensor) -> Tensor:
        """Return ``(batch, classes, *grid)`` of slices ``(batch, channels, rows, columns)`` or windows.

        Gradients reach the encoder only where its parameters want them.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and next(self._encoder_parameters()).requires_grad):
            maps = self.pyramid(images)
        return self.segmenter(maps, images)

    @torch.inference_mode()
    def segment(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[TaskFile]:
        """Return the likeliest class of each voxel of each image, in its own grid: NIfTI, of a picture a PNG."""
        assert self.segmentation is not None
        grid = grid_of(self.segmentation.dimensions)
        answers = []
        for feature, sample in zip(grid.split(batch), samples, strict=True):
            probabilities = grid.probabilities(self, feature, sample)
            answers.append(class_file(probabilities.argmax(0), sample.data))
        return answers

    def _encoder_parameters(self) -> Any:
        return (p for name, p in self.named_parameters() if not name.startswith(PREFIX))
