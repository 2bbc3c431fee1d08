"""One encoder of a finished run as a checkpoint: ``python -m domains.medical.alice.export RUN OUT``.

A run's own folder embeds with the student, and holds decoder, heads and teacher too, so that it can be gone on from:
several times the encoder. Which of the two encoders is better has to be measured.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from domains.medical.alice.configuration import PATCH, AliceConfig
from domains.medical.alice.modeling import AliceModel
from domains.medical.alice.nnformer import window_and_shift
from domains.medical.alice.processing import AliceProcessor
from hub.embedder import load_part
from hub.errors import HubError, InvalidCheckpoint
from hub.official_files import load_exactly
from hub.publishing import WEIGHTS, save_checkpoint

PREFIXES = {"student": "alice.", "teacher": "teacher.model.encoder."}
"""Under which names a run holds the weights of each encoder."""
KEPT = ("README.md", "recipe.yaml", "training_curve.png")
TABLE = "encoder.absolute_pos_embed"


def export_encoder(
    run: Path, output: Path, which: str = "teacher", roi: int = 0, pooling: str = "", half: bool = False
) -> None:
    """Write one encoder as a checkpoint, with the run's processor, card, recipe and curve.

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
    if output.exists() and any(output.iterdir()):
        raise InvalidCheckpoint(f"{output} is not empty; give a new folder")
    try:
        tensors = load_file(run / WEIGHTS)
    except (OSError, SafetensorError):
        raise InvalidCheckpoint(f"{run} holds no {WEIGHTS} that can be read; give the folder of a run") from None
    prefix = PREFIXES[which]
    weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    if not weights:
        raise InvalidCheckpoint(f"{run} holds no {which}; it is not the folder of a run of Alice")
    config = load_part(AliceConfig, run)
    has_processor = (run / "preprocessor_config.json").exists()
    processor = load_part(AliceProcessor, run if has_processor else run.parent)
    if roi:
        if TABLE in weights:
            weights[TABLE] = _stretched(weights[TABLE], config.roi, roi)
            windows = [window_and_shift(config, stage)[0] for stage in range(len(config.depths))]
            config = AliceConfig(**{**config.to_dict(), "window_size": windows, "roi": [roi] * 3})
        else:
            config = AliceConfig(**{**config.to_dict(), "roi": [roi] * 3})
        processor.roi = [roi] * 3
    model = AliceModel(config)
    if pooling:
        model.check_options(pooling)
        config.pooling = pooling
    load_exactly(model, weights, str(run), f"the {which}'s weights")
    save_checkpoint(output, model, processor, half_precision=half)
    for name in KEPT:
        if (run / name).exists():
            shutil.copy(run / name, output / name)


def _stretched(table: Tensor, roi: list[int] | tuple[int, ...], side: int) -> Tensor:
    grid = table.view(1, *(n // PATCH for n in roi), -1).movedim(-1, 1)
    size = (side // PATCH,) * 3
    return F.interpolate(grid, size=size, mode="trilinear", align_corners=False).flatten(2).transpose(1, 2).contiguous()


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="One encoder of a finished run of Alice as a checkpoint.")
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--which", choices=PREFIXES, default="teacher")
    parser.add_argument("--roi", type=int, default=0, help="side of the windows, voxels; the run's unless given")
    parser.add_argument("--pooling", default="", help="the checkpoint's default; the run's unless given")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    given = parser.parse_args()
    try:
        export_encoder(given.run, given.out, given.which, given.roi, given.pooling, given.half)
    except HubError as error:
        sys.exit(str(error))
    print(f"{given.out} is ready")


if __name__ == "__main__":
    main()
