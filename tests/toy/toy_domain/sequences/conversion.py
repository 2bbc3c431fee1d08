"""A file of tensors to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub.official_files import read_state_dict
from hub.publishing import save_checkpoint
from toy_domain.sequences.modeling import SequenceConfig, SequenceModel
from toy_domain.sequences.processing import SequenceProcessor


def convert(file: Path, output: Path, scale: int = 1) -> dict[str, Any]:
    tensors = read_state_dict(file)
    model = SequenceModel(SequenceConfig(hidden_size=len(tensors["input.bias"])))
    model.load_state_dict(tensors)
    save_checkpoint(output, model, SequenceProcessor(scale=float(scale)))
    return {"tensors": len(tensors)}
