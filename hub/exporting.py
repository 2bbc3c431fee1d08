"""One encoder of a finished run as a checkpoint of its own.

The folder of a run embeds with the student, and holds heads and teacher too, so that it can be gone on from: several
times the encoder. Which of the two encoders is better has to be measured.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hub.domain import get_system
from hub.embedder import load_part
from hub.errors import HubError, InvalidCheckpoint
from hub.official_files import load_exactly
from hub.processing import Processor
from hub.publishing import WEIGHTS, save_checkpoint

TEACHER = "teacher.model.encoder."
"""Under which names a run holds the weights of the teacher's encoder."""
KEPT = ("README.md", "recipe.yaml", "training_curve.png")

Change = Callable[[Any, dict[str, Tensor], Processor], tuple[Any, dict[str, Tensor]]]
"""What a system does to (configuration, weights, processor) on the way: it returns the first two anew, and sets the
processor's attributes."""


def export_encoder(
    system: str,
    run: Path,
    output: Path,
    which: str = "teacher",
    *,
    pooling: str = "",
    half: bool = False,
    change: Change | None = None,
) -> None:
    """Write one encoder as a checkpoint, with the run's processor, card, recipe and curve.

    Args:
        system: Name of the run's system.
        run: Output folder of ``fmhub pretrain``, or one of its resumable checkpoints.
        output: Folder to write; must not exist or be empty.
        which: ``student`` or ``teacher``.
        pooling: The checkpoint's default reduction of token states; the run's where empty.
        half: Whether to store the weights as float16.
        change: What else becomes of the encoder.

    Raises:
        InvalidCheckpoint: The run has no such encoder, or ``output`` holds something.
        UnsupportedOption: There is no such pooling, or ``change`` refuses.
    """
    if output.exists() and any(output.iterdir()):
        raise InvalidCheckpoint(f"{output} is not empty; give a new folder")
    try:
        tensors = load_file(run / WEIGHTS)
    except (OSError, SafetensorError):
        raise InvalidCheckpoint(f"{run} holds no {WEIGHTS} that can be read; give the folder of a run") from None
    found = get_system(system)
    model_class = found.load("model")
    prefix = TEACHER if which == "teacher" else f"{model_class.base_model_prefix}."
    weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    if not weights:
        raise InvalidCheckpoint(f"{run} holds no {which}; it is not the folder of a run of {found.title}")
    config = load_part(found.load("configuration"), run)
    has_processor = (run / "preprocessor_config.json").exists()
    processor = load_part(found.load("processor"), run if has_processor else run.parent)
    if change is not None:
        config, weights = change(config, weights, processor)
    model = model_class(config)
    if pooling:
        model.check_options(pooling)
        config.pooling = pooling
    load_exactly(model, weights, str(run), f"the {which}'s weights")
    save_checkpoint(output, model, processor, half_precision=half)
    for name in KEPT:
        if (run / name).exists():
            shutil.copy(run / name, output / name)


def export_script(export: Callable[..., None], option: str, help: str) -> None:
    """Run ``python -m domains.NAME.SYSTEM.export RUN OUT``.

    Args:
        export: Called with the values of the command line by name: ``run``, ``output``, ``which``, ``pooling``,
            ``half`` and ``option``.
        option: Name of the whole number that this system's script takes beside them; 0 leaves the encoder as it is.
        help: Its line of help.
    """
    parser = argparse.ArgumentParser(description="Write one encoder of a finished run as a checkpoint.")
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--which", choices=["student", "teacher"], default="teacher")
    parser.add_argument(f"--{option}", type=int, default=0, help=help)
    parser.add_argument("--pooling", default="", help="the checkpoint's default; the run's unless given")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    given: Mapping[str, Any] = vars(parser.parse_args())
    try:
        export(**given)
    except HubError as error:
        sys.exit(str(error))
    print(f"{given['output']} is ready")
