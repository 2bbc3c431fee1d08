"""What a run leaves for people: its curve and the prose of its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hub.training.recipe import Recipe

NOT_METRICS = {"loss", "step", "epoch", "learning_rate", "grad_norm"}


def draw_curve(history: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Draw loss, learning rate and the task's metrics over the optimiser steps.

    Args:
        history: The points of the curve, each with ``step`` and ``loss``.
        path: PNG file to write.
        title: Of the figure.
    """
    from matplotlib.figure import Figure

    metrics = sorted({k for point in history for k in point} - NOT_METRICS)
    figure = Figure(figsize=(8, 2.6 * (2 + bool(metrics))), layout="constrained")
    axes = figure.subplots(2 + bool(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for axis, names in zip(axes, (["loss"], ["learning_rate"], metrics), strict=False):
        for name in names:
            points = [(p["step"], p[name]) for p in history if name in p]
            axis.plot(*zip(*points, strict=True), label=name.replace("_", " "), linewidth=1.4)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    axes[0].set_title(title)
    axes[-1].set_xlabel("optimiser step")
    figure.savefig(path, dpi=110)


def run_summary(
    name: str,
    recipe: Recipe,
    parameters: int,
    samples: int,
    history: Sequence[Mapping[str, float]],
    seconds: float,
    machine: str,
    resumed_at: int = 0,
) -> str:
    """Return the prose of a run's card; every number in it was measured in this run.

    Args:
        name: Of the checkpoint.
        recipe: That was run.
        parameters: With the pretext heads.
        samples: Trained on.
        history: The points of the curve.
        seconds: That this process took.
        machine: It ran on.
        resumed_at: Step that this process began at.
    """
    last = history[-1]
    tail = history[-max(1, len(history) // 20) :]
    loss = sum(p["loss"] for p in tail) / len(tail)
    options = recipe.training
    metrics = "".join(f"| {k.replace('_', ' ')} | {v:.4g} |\n" for k, v in last.items() if k not in NOT_METRICS)
    took = f"From step {resumed_at}, where it was resumed, it took" if resumed_at else "It took"
    return f"""# {name}

{recipe.system.title} ({recipe.system.paper}), pretrained with fmhub on {samples} samples. {recipe.description}

```python
import hub

embedder = hub.from_pretrained("{name}")  # or the folder that holds this file
vectors = embedder.embed(["file1", "file2"])
```

## Training

Recipe `{recipe.name}` (`recipe.yaml` beside this file): {options.steps} steps, peak learning rate
{options.learning_rate:g}, {options.schedule} schedule, {options.precision}, seed {options.seed}. {parameters:,}
parameters with the pretext heads. {took} {seconds / 60:.1f} minutes on {machine}.

| at the end | value |
|---|---|
| loss, first point | {history[0]["loss"]:.4f} |
| loss, mean of the last {len(tail)} points | {loss:.4f} |
{metrics}
![training curve](training_curve.png)

## Limitations

Not evaluated on any task yet: `fmhub evaluate` measures it against its random twin and a simple baseline.
"""
