"""Where a run stands, for a live line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback

LIVE_SECONDS = 0.5
"""How often at most a live line is renewed between two points of the curve."""


@dataclass(frozen=True)
class Progress:
    """One moment of a run.

    Attributes:
        step: Optimiser steps taken.
        steps: Of the whole run.
        samples_per_second: Seen by all processes together, since the run or its resumption began.
        seconds_left: Until the last step, at this speed.
        values: The newest point of the curve, when this moment is one; otherwise empty.
    """

    step: int
    steps: int
    samples_per_second: float = 0.0
    seconds_left: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)


class ProgressReport(TrainerCallback):  # type: ignore[misc]
    """Tells how a run goes: at each point of the curve, and twice a second between."""

    def __init__(self, tell: Callable[[Progress], None], samples: Callable[[], int]) -> None:
        """Keep whom to tell.

        Args:
            tell: Called in the first process alone.
            samples: Returns how many samples the run has seen so far.
        """
        self.tell = tell
        self.samples = samples
        self._began = self._told = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began = time.monotonic()
        self._first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Renew the live line, now and then."""
        if state.is_world_process_zero and time.monotonic() - self._told > LIVE_SECONDS:
            self._say(state, {})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Tell a point of the curve."""
        if state.is_world_process_zero and logs and "loss" in logs:
            self._say(state, logs)

    def _say(self, state: Any, values: Mapping[str, float]) -> None:
        self._told = time.monotonic()
        spent = max(self._told - self._began, 1e-9)
        done = max(state.global_step - self._first_step, 1)
        left = (state.max_steps - state.global_step) * spent / done
        self.tell(Progress(state.global_step, state.max_steps, self.samples() / spent, left, values))
