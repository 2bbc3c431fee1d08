"""The Alice encoder: a pyramid of maps of each window of a volume, and token states from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.medical.alice.configuration import AliceConfig
from domains.medical.alice.initialisation import initialise
from domains.medical.alice.nnformer import Encoder
from domains.medical.alice.orientation import describe_window
from domains.medical.alice.swin import swin_encoder
from domains.medical.segmentation.model import SegmentingModel
from hub.modeling import EncoderOutput, masked_mean
from hub.reading import Sample

VOXELS_AT_ONCE = 2 * 64**3
"""Voxels of windows encoded together: bounds the memory that a large volume takes."""


class AliceModel(SegmentingModel):
    """Windows of volumes to token states.

    A volume is covered by overlapping windows of one size, which are encoded each by itself. Its tokens are those of
    all windows, one window after another; the mean over them is the mean over the windows.

    ``pyramid`` gives the maps of windows to the decoder of a checkpoint fine-tuned for segmentation, and to whoever
    puts one on them; their strides (voxels) and widths (channels), finest first, are ``config.strides`` and
    ``config.widths``.

    The pooling ``centre`` is the state of the cells at the middle of the volume, for questions about a place: cut the
    volume around it.
    """

    config: AliceConfig
    config_class = AliceConfig
    base_model_prefix = "alice"
    main_input_name = "volumes"
    input_modalities = "image"
    # A pretraining checkpoint also holds what the pretext task needs, which an encoder rightly leaves.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"^(decoder|head|casa|teacher|centre|token_centre)\.",
        r"^progress$",
    ]
    poolings: ClassVar[tuple[str, ...]] = ("mean", "max", "mean_std", "centre")
    tasks: ClassVar[Mapping[str, str]] = {"windows": "embed_windows"}

    def __init__(self, config: AliceConfig) -> None:
        """Create the encoder with fresh weights."""
        super().__init__(config)
        self.encoder = Encoder(config) if config.backbone == "nnformer" else swin_encoder(config)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        initialise(module)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Encode windows to maps of falling resolution.

        Args:
            images: Windows, ``(batch, 1, x, y, z)``, as the processor's ``windows`` gives them; sides are multiples of
                ``config.strides[-1]``, best those of ``config.roi``.

        Returns:
            Maps ``(batch, channels, x / stride, y / stride, z / stride)``, finest first.

        Raises:
            ValueError: A side is no such multiple.
        """
        last = self.config.strides[-1]
        if any(side % last for side in images.shape[2:]):
            raise ValueError(f"windows of {tuple(images.shape[2:])} voxels; each side must be a multiple of {last}")
        return list(self.encoder(images.to(self.dtype)))

    def tokens(self, maps: Sequence[Tensor]) -> Tensor:
        """Put the chosen stages of a pyramid side by side on one grid, ``(batch, hidden, x, y, z)``."""
        grid = maps[self.config.token_level].shape[2:]
        return torch.cat([_onto(maps[level], grid) for level in self.config.levels], dim=1)

    def forward(
        self,
        volumes: Tensor,
        starts: Tensor,
        bounds: Tensor,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode the windows of a batch of volumes.

        Args:
            volumes: ``(batch, 1, x, y, z)`` from the processor, each at the beginning of its row.
            starts: ``(batch, windows, 3)`` first voxel of each window; -1 where a volume has fewer.
            bounds: ``(batch, 2, 3)`` first voxel that is the volume's own, and the one after the last. What lies
                outside was added to fill a window.
            output_hidden_states: Whether to return the states as the one hidden state, too.

        Returns:
            Token states ``(batch, windows * tokens, hidden)`` and their mask. A token is real where its cell holds at
            least one of the volume's own voxels.
        """
        roi, config = list(self.config.roi), self.config
        places = [(row, start) for row, many in enumerate(starts.tolist()) for start in many if start[0] >= 0]
        at_once = max(1, VOXELS_AT_ONCE // (roi[0] * roi[1] * roi[2]))
        parts = []
        for first in range(0, len(places), at_once):
            cut = torch.stack([volumes[row][window_slices(s, roi)] for row, s in places[first : first + at_once]])
            parts.append(self.tokens(self.pyramid(cut)).flatten(2).transpose(1, 2))
        encoded = torch.cat(parts)
        count = encoded.shape[1]
        real = torch.stack([self._real(start, bounds[row]) for row, start in places])
        states = encoded.new_zeros(*starts.shape[:2], count, config.hidden_size)
        mask = torch.zeros(*starts.shape[:2], count, dtype=torch.bool, device=states.device)
        present = starts[..., 0] >= 0
        states[present], mask[present] = encoded, real
        states, mask = states.flatten(1, 2), mask.flatten(1, 2)
        return EncoderOutput(
            last_hidden_state=states, mask=mask, hidden_states=(states,) if output_hidden_states else None
        )

    def _real(self, start: Sequence[int], bounds: Tensor) -> Tensor:
        """Return which tokens of a window hold voxels of the volume, ``(tokens,)`` bool."""
        stride = self.config.strides[self.config.token_level]
        first = self._cells(torch.tensor(start, device=bounds.device))
        return ((first + stride > bounds[0]) & (first < bounds[1])).all(-1)

    def _cells(self, start: Tensor) -> Tensor:
        """Return the first voxel of each token of windows, ``(..., tokens, 3)``, for their starts ``(..., 3)``."""
        stride = self.config.strides[self.config.token_level]
        sides = [torch.arange(0, side, stride, device=start.device) for side in self.config.roi]
        return start.unsqueeze(-2) + torch.cartesian_prod(*sides)

    def pool(self, states: Tensor, mask: Tensor, pooling: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Reduce token states to one vector a volume.

        ``centre`` is the mean over the cells of all windows that touch the middle of the volume.
        """
        if pooling != "centre":
            return super().pool(states, mask, pooling, batch)
        stride = self.config.strides[self.config.token_level]
        bounds = batch["bounds"]
        # In voxels' borders, which the middle of an even side lies on: then the cells on both sides of it touch it.
        middle = bounds.sum(1)[:, None] / 2
        first = self._cells(batch["starts"]).flatten(1, 2)
        touching = ((first <= middle) & (first + stride >= middle)).all(-1)
        return masked_mean(states, mask & touching)

    def embed_windows(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[Any]:
        """Return the vector of each window with its place in the image.

        Returns:
            For each volume a list of ``{"start": [slice, row, column], "size": [...], "centre": [x, y, z] or None,
            "embedding": [...]}``: voxels of the image as it was read, and millimetres (RAS+) where it has an affine.
        """
        output = self(**batch)
        assert output.last_hidden_state is not None and output.mask is not None
        count = batch["starts"].shape[1]
        answers = []
        for row, sample in enumerate(samples):
            states = output.last_hidden_state[row].float().unflatten(0, (count, -1))
            mask = output.mask[row].unflatten(0, (count, -1))
            answers.append(
                [
                    {**place, "embedding": states[i][mask[i]].mean(0).tolist()}
                    for i, start in enumerate(batch["starts"][row].tolist())
                    if start[0] >= 0
                    for place in [describe_window(start, self.config.roi, batch["bounds"][row].tolist(), sample.data)]
                ]
            )
        return answers


def window_slices(start: Sequence[int], roi: Sequence[int]) -> tuple[slice, ...]:
    """Return what cuts a window out of ``(channels, x, y, z)``."""
    return (slice(None), *(slice(s, s + side) for s, side in zip(start, roi, strict=True)))


def _onto(cells: Tensor, grid: Sequence[int]) -> Tensor:
    """Bring a map to another stage's grid: by the mean of the cells of one, or by repeating a coarser one."""
    x, y, z = grid
    if cells.shape[2] > x:
        return F.adaptive_avg_pool3d(cells, (x, y, z))
    return F.interpolate(cells, size=(x, y, z), mode="nearest")
