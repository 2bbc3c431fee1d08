"""Going on from another run: its weights, and if wanted its optimiser's state and its constant phase."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hub.errors import InvalidRecipe

SCHEDULE_STATE = "schedule.json"


@dataclass(frozen=True)
class Start:
    """Where a run's weights come from.

    Attributes:
        weights: Built-in name, folder or repository; with ``optimizer`` the folder of a run, or one of its
            ``checkpoint-*``.
        optimizer: Whether to take the optimiser's state too, so that its moments need not be gathered anew.
    """

    weights: str | Path
    optimizer: bool = False

    def resumable(self) -> Path:
        """Return the resumable checkpoint that ``weights`` names: itself, or the newest of the run.

        Raises:
            InvalidRecipe: There is none, for example because the folder is a published checkpoint.
        """
        folder = Path(self.weights)
        found = [
            folder,
            *sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]), reverse=True),
        ]
        for candidate in found:
            if (candidate / "optimizer.pt").is_file():
                return candidate
        raise InvalidRecipe(
            f"{folder} holds no resumable checkpoint (checkpoint-*/optimizer.pt), which the optimiser's state is taken "
            "from; give the folder of a run, or go on from the weights alone"
        )


def write_schedule_state(folder: Path, schedule: str, phase: str, step: int, total: int) -> None:
    """Note beside a resumable checkpoint in which phase of its schedule it was taken."""
    state = {"schedule": schedule, "phase": phase, "step": step, "of": total}
    (folder / SCHEDULE_STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")


def check_constant_phase(checkpoint: Path) -> None:
    """Raise InvalidRecipe unless a checkpoint was taken at a constant learning rate, where annealing begins."""
    path = checkpoint / SCHEDULE_STATE
    state = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if state.get("schedule") not in ("infinite", "hold") or state.get("phase") != "constant":
        found = f"{state['phase']!r} of schedule {state['schedule']!r}" if state else "not recorded"
        raise InvalidRecipe(
            f"{checkpoint} was taken in the phase {found}; annealing goes on from the constant phase of the schedule "
            "'infinite' or 'hold'"
        )


def take_over_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Give an optimiser the state (moments, step counts) of a run's; rates and groups stay its own.

    Raises:
        InvalidRecipe: The state is of another optimiser or of other parameters.
    """
    state: dict[str, Any] = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
    own = optimizer.state_dict()
    kinds = [set(s["param_groups"][0]) - {"initial_lr"} for s in (own, state)]
    if kinds[0] != kinds[1]:
        raise InvalidRecipe(f"the optimiser's state in {checkpoint} is of another optimiser than this recipe's")
    groups = [[len(g["params"]) for g in s["param_groups"]] for s in (own, state)]
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    shapes_fit = groups[0] == groups[1] and all(
        value.shape in ((), parameters[index].shape)
        for index, values in state["state"].items()
        for value in values.values()
        if isinstance(value, torch.Tensor)
    )
    if not shapes_fit:
        raise InvalidRecipe(
            f"the optimiser's state in {checkpoint} is of other parameters than this recipe's: {groups[1]} tensors a "
            f"group there, {groups[0]} here (or of other shapes)"
        )
    optimizer.load_state_dict({"state": state["state"], "param_groups": own["param_groups"]})
