"""The teacher of a finished run as a checkpoint: ``python -m domains.sar.nereus.export RUN OUT``.

DINO's product is the teacher: the average over the last steps is better than any of them. A run's own checkpoint embeds
with the student, and holds heads and teacher too, so that it can be gone on from.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.modeling import NereusModel
from hub.embedder import load_part
from hub.errors import HubError, InvalidCheckpoint
from hub.publishing import WEIGHTS

PREFIX = "teacher.model.encoder."
KEPT = ("preprocessor_config.json", "README.md", "recipe.yaml", "training_curve.png")


def export_teacher(run: Path, output: Path) -> None:
    """Write the teacher's encoder as a checkpoint, with the run's processor, card, recipe and curve.

    Args:
        run: Output folder of ``fmhub pretrain``.
        output: Folder to write; must not exist or be empty.

    Raises:
        InvalidCheckpoint: The run has no teacher, or ``output`` holds something.
    """
    if output.exists() and any(output.iterdir()):
        raise InvalidCheckpoint(f"{output} is not empty; give a new folder")
    try:
        tensors = load_file(run / WEIGHTS)
    except (OSError, SafetensorError):
        raise InvalidCheckpoint(f"{run} holds no {WEIGHTS} that can be read; give the folder of a run") from None
    teacher = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    if not teacher:
        raise InvalidCheckpoint(f"{run} holds no teacher; it is not the folder of a run of Nereus")
    model = NereusModel(load_part(NereusConfig, run))
    model.load_state_dict(teacher)
    model.save_pretrained(output)
    for name in KEPT:
        if (run / name).exists():
            shutil.copy(run / name, output / name)


def main() -> None:
    """Run the script."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m domains.sar.nereus.export RUN OUT")
    try:
        export_teacher(Path(sys.argv[1]), Path(sys.argv[2]))
    except HubError as error:
        sys.exit(str(error))
    print(f"{sys.argv[2]} is ready")


if __name__ == "__main__":
    main()
