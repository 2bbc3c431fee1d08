"""One encoder of a finished run as a checkpoint: ``python -m domains.medical.alice.export RUN OUT``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from domains.medical.alice.configuration import PATCH, AliceConfig
from domains.medical.alice.nnformer import window_and_shift
from hub import exporting
from hub.processing import Processor

TABLE = "encoder.absolute_pos_embed"


def export_encoder(
    run: Path, output: Path, which: str = "teacher", roi: int = 0, pooling: str = "", half: bool = False
) -> None:
    """Write one encoder as a checkpoint; see `hub.exporting.export_encoder`.

    Args:
        run: Output folder of ``fmhub pretrain``, or one of its resumable checkpoints.
        output: Folder to write; must not exist or be empty.
        which: ``student`` or ``teacher``.
        roi: Side of the windows that the encoder is used on, voxels; 0 for those of the run. The position table is
            stretched to it.
        pooling: The checkpoint's default reduction of token states; the run's where empty.
        half: Whether to store the weights as float16.

    Raises:
        InvalidCheckpoint: The run has no such encoder, or ``output`` holds something.
        UnsupportedOption: There is no such pooling.
    """

    def widened(config: Any, weights: dict[str, Tensor], processor: Processor) -> tuple[Any, dict[str, Tensor]]:
        changed = {"roi": [roi] * 3}
        if TABLE in weights:
            weights = {**weights, TABLE: _stretched(weights[TABLE], config.roi, roi)}
            changed["window_size"] = [window_and_shift(config, stage)[0] for stage in range(len(config.depths))]
        processor.roi = [roi] * 3  # type: ignore[attr-defined]
        return AliceConfig(**{**config.to_dict(), **changed}), weights

    change = widened if roi else None
    exporting.export_encoder("alice", run, output, which, pooling=pooling, half=half, change=change)


def _stretched(table: Tensor, roi: list[int] | tuple[int, ...], side: int) -> Tensor:
    grid = table.view(1, *(n // PATCH for n in roi), -1).movedim(-1, 1)
    size = (side // PATCH,) * 3
    return F.interpolate(grid, size=size, mode="trilinear", align_corners=False).flatten(2).transpose(1, 2).contiguous()


if __name__ == "__main__":
    exporting.export_script(export_encoder, "roi", "side of the windows, voxels; the run's unless given")
