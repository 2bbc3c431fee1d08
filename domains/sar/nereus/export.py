"""One encoder of a finished run as a checkpoint: ``python -m domains.sar.nereus.export RUN OUT``.

DINO publishes the teacher; which of the two is better has to be measured. So has the depth: the last stages of a small
ResNet, nearest to the loss, throw away what tells images apart that the views of one image do not share, as the
projection head above them does (Bordes et al. 2023, "Guillotine regularization").
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from domains.sar.nereus.configuration import NereusConfig
from hub import exporting
from hub.errors import UnsupportedOption
from hub.processing import Processor

STAGE = re.compile(r"resnet\.encoder\.stages\.(\d+)\.")


def export_encoder(
    run: Path, output: Path, which: str = "teacher", stages: int = 0, pooling: str = "", half: bool = False
) -> None:
    """Write one encoder as a checkpoint; see `hub.exporting.export_encoder`.

    Args:
        run: Output folder of ``fmhub pretrain``, or one of its resumable checkpoints.
        output: Folder to write; must not exist or be empty.
        which: ``student`` or ``teacher``.
        stages: How many of a ResNet's stages to keep, the first ones; 0 for all.
        pooling: The checkpoint's default reduction of token states; the run's where empty.
        half: Whether to store the weights as float16.

    Raises:
        InvalidCheckpoint: The run has no such encoder, or ``output`` holds something.
        UnsupportedOption: The encoder has fewer stages or no such pooling.
    """

    def shortened(config: Any, weights: dict[str, Tensor], _: Processor) -> tuple[Any, dict[str, Tensor]]:
        return _first_stages(config, stages), {n: t for n, t in weights.items() if not _beyond(n, stages)}

    change = shortened if stages else None
    exporting.export_encoder("nereus", run, output, which, pooling=pooling, half=half, change=change)


def _first_stages(config: NereusConfig, stages: int) -> NereusConfig:
    if config.backbone != "resnet" or not 0 < stages <= len(config.depths):
        count = f"{len(config.depths)} stages" if config.backbone == "resnet" else "no stages"
        raise UnsupportedOption(f"stages is {stages}, and the run's {config.backbone} has {count}", param="stages")
    shorter = {"hidden_sizes": config.hidden_sizes[:stages], "depths": config.depths[:stages]}
    return NereusConfig(**{**config.to_dict(), **shorter})


def _beyond(name: str, stages: int) -> bool:
    found = STAGE.match(name)
    return found is not None and int(found[1]) >= stages


if __name__ == "__main__":
    exporting.export_script(export_encoder, "stages", "of a ResNet to keep; 0 for all")
