"""Self-distillation for further pretraining: the student starts anew, a further-pretrained teacher shows the way.

Lee et al. 2023, "Self-distillation for further pre-training of transformers", section 3: a model is further pretrained
on the target's unlabelled data; then the original weights are trained once more on the same objective, plus the
distance of their token states to that model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub.errors import InvalidRecipe
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.distributed import mean_share


@dataclass(frozen=True)
class Distillation:
    """What to distil from.

    Attributes:
        teacher: Built-in name, folder or repository of the further-pretrained checkpoint.
        weight: Of the distance beside the pretext task's own loss.
    """

    teacher: str | Path
    weight: float = 1.0


class Distiller:
    """The fixed teacher, and the distance of a student's token states to its own."""

    def __init__(self, teacher: PretextModel, weight: float) -> None:
        """Keep the teacher, in eval mode and without gradients.

        Args:
            teacher: Pretext task of the further-pretrained checkpoint.
            weight: Of the distance.
        """
        self.teacher = teacher.eval().requires_grad_(False)
        self.weight = weight

    def check_fits(self, student: PretextModel) -> None:
        """Raise InvalidRecipe when the student's token states are not of the teacher's width."""
        widths = [int(m.config.hidden_size) for m in (self.teacher, student)]
        if type(self.teacher) is not type(student) or widths[0] != widths[1]:
            raise InvalidRecipe(
                f"the teacher is a {type(self.teacher).__name__} of width {widths[0]}, the student a "
                f"{type(student).__name__} of width {widths[1]}; self-distillation is between two of one kind"
            )

    def add_to(self, output: PretextOutput, batch: Mapping[str, Any]) -> None:
        """Add the distance to a student's loss, and name it among its metrics.

        Args:
            output: The student's answer to the batch.
            batch: What it was asked, on the student's device.

        Raises:
            InvalidRecipe: The pretext task does not return its token states.
        """
        if output.states is None:
            raise InvalidRecipe("this system's pretext task returns no token states, so it offers no self-distillation")
        self.teacher.to(output.states.device)
        with torch.no_grad():
            target = self.teacher(**batch).states
        distance = state_distance(output.states, target, output.states_mask)
        assert output.loss is not None
        output.loss = output.loss + self.weight * distance
        output.metrics = {**(output.metrics or {}), "distillation": distance.detach()}


def state_distance(states: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of token states over the real tokens of all processes.

    Args:
        states: ``(..., hidden)``.
        target: The same shape; a constant.
        mask: ``(...)``, true where a token is real; all when left out.
    """
    weights = None if mask is None else mask.unsqueeze(-1)
    return mean_share((states.float() - target.detach().float()).square(), weights)
