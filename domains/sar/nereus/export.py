"""One encoder of a finished run as a checkpoint: ``python -m domains.sar.nereus.export RUN OUT``.

A run's own folder embeds with the student, and holds heads and teacher too, so that it can be gone on from: about three
times the encoder. DINO publishes the teacher; which of the two is better has to be measured. So has the depth: the last
stages of a small ResNet, nearest to the loss, throw away what tells images apart that the views of one image do not
share, as the projection head above them does (Bordes et al. 2023, "Guillotine regularization").
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.modeling import NereusModel
from hub.embedder import load_part
from hub.errors import HubError, InvalidCheckpoint, UnsupportedOption
from hub.official_files import load_exactly
from hub.publishing import WEIGHTS, halve_weights

PREFIXES = {"student": "nereus.", "teacher": "teacher.model.encoder."}
"""Under which names a run holds the weights of each encoder."""
STAGE = re.compile(r"resnet\.encoder\.stages\.(\d+)\.")
KEPT = ("preprocessor_config.json", "README.md", "recipe.yaml", "training_curve.png")


def export_encoder(
    run: Path, output: Path, which: str = "teacher", stages: int = 0, pooling: str = "", half: bool = False
) -> None:
    """Write one encoder as a checkpoint, with the run's processor, card, recipe and curve.

    Args:
        run: Output folder of ``fmhub pretrain``.
        output: Folder to write; must not exist or be empty.
        which: ``student`` or ``teacher``.
        stages: How many of a ResNet's stages to keep, the first ones; 0 for all.
        pooling: The checkpoint's default reduction of token states; the run's where empty.
        half: Whether to store the weights as float16.

    Raises:
        InvalidCheckpoint: The run has no such encoder, or ``output`` holds something.
        UnsupportedOption: The encoder has fewer stages or no such pooling.
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
        raise InvalidCheckpoint(f"{run} holds no {which}; it is not the folder of a run of Nereus")
    config = load_part(NereusConfig, run)
    if stages:
        config = _first_stages(config, stages)
        weights = {name: t for name, t in weights.items() if not _beyond(name, stages)}
    model = NereusModel(config)
    if pooling:
        model.check_options(pooling)
        config.pooling = pooling
    load_exactly(model, weights, str(run), f"the {which}'s weights")
    model.save_pretrained(output)
    if half:
        halve_weights(output)
    for name in KEPT:
        if (run / name).exists():
            shutil.copy(run / name, output / name)


def _first_stages(config: NereusConfig, stages: int) -> NereusConfig:
    if config.backbone != "resnet" or not 0 < stages <= len(config.depths):
        count = f"{len(config.depths)} stages" if config.backbone == "resnet" else "no stages"
        raise UnsupportedOption(f"stages is {stages}, and the run's {config.backbone} has {count}", param="stages")
    shorter = {"hidden_sizes": config.hidden_sizes[:stages], "depths": config.depths[:stages]}
    return NereusConfig(**{**config.to_dict(), **shorter})


def _beyond(name: str, stages: int) -> bool:
    found = STAGE.match(name)
    return found is not None and int(found[1]) >= stages


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="One encoder of a finished run of Nereus as a checkpoint.")
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--which", choices=PREFIXES, default="teacher")
    parser.add_argument("--stages", type=int, default=0, help="of a ResNet to keep; 0 for all")
    parser.add_argument("--pooling", default="", help="the checkpoint's default; the run's unless given")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    given = parser.parse_args()
    try:
        export_encoder(given.run, given.out, given.which, given.stages, given.pooling, given.half)
    except HubError as error:
        sys.exit(str(error))
    print(f"{given.out} is ready")


if __name__ == "__main__":
    main()
