"""One encoder of a finished run as a checkpoint: ``python -m domains.sar.nereus.export RUN OUT [student|teacher]``.

A run's own folder embeds with the student, and holds heads and teacher too, so that it can be gone on from: about three
times the encoder. DINO publishes the teacher; which of the two is better has to be measured.
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
from hub.official_files import load_exactly
from hub.publishing import WEIGHTS

PREFIXES = {"student": "nereus.", "teacher": "teacher.model.encoder."}
"""Under which names a run holds the weights of each encoder."""
KEPT = ("preprocessor_config.json", "README.md", "recipe.yaml", "training_curve.png")


def export_encoder(run: Path, output: Path, which: str = "teacher") -> None:
    """Write one encoder as a checkpoint, with the run's processor, card, recipe and curve.

    Args:
        run: Output folder of ``fmhub pretrain``.
        output: Folder to write; must not exist or be empty.
        which: ``student`` or ``teacher``.

    Raises:
        InvalidCheckpoint: The run has no such encoder, or ``output`` holds something.
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
    model = NereusModel(load_part(NereusConfig, run))
    load_exactly(model, weights, str(run), f"the {which}'s weights")
    model.save_pretrained(output)
    for name in KEPT:
        if (run / name).exists():
            shutil.copy(run / name, output / name)


def main() -> None:
    """Run the script."""
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], *([which] for which in PREFIXES)):
        sys.exit(f"usage: python -m domains.sar.nereus.export RUN OUT [{'|'.join(PREFIXES)}]")
    try:
        export_encoder(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
    except HubError as error:
        sys.exit(str(error))
    print(f"{sys.argv[2]} is ready")


if __name__ == "__main__":
    main()
