"""``fmhub pretrain``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer


def pretrain(
    recipe: Annotated[str, typer.Argument(help="YAML file, or a built-in recipe as system/recipe.")],
    data: Annotated[Path, typer.Option(help="Folder of native files, or a manifest (its train part is taken).")],
    output_dir: Annotated[Path, typer.Option(help="Folder of the run; it becomes a checkpoint.")],
    resume: Annotated[bool, typer.Option(help="Go on with the run in OUTPUT_DIR where it was.")] = False,
    start_from: Annotated[str | None, typer.Option("--from", help="Checkpoint whose weights to start from.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16, instead of the recipe's.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Of the learning rate, instead of the recipe's.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between resumable checkpoints.")] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps between points of the curve.")] = None,
    readers: Annotated[int | None, typer.Option(help="Processes that read and prepare samples.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the training process.")] = None,
    license: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "other",
) -> None:
    """Pretrain a system by a recipe, on a folder or a manifest.

    Runs alike on a CPU, a GPU, and under torchrun. A run that was killed goes on with --resume as if nothing had
    happened.
    """
    import torch

    from hub.training.pretrain import pretrain as run
    from hub.training.recipe import load_recipe

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = load_recipe(recipe).with_training(
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        precision=precision,
        schedule=schedule,
        save_every=save_every,
        log_every=log_every,
        readers=readers,
    )
    left_out: list[Any] = []
    folder = run(
        chosen,
        data,
        output_dir,
        resume=resume,
        start_from=start_from,
        license=license,
        on_error=left_out.append,
        on_progress=_Line(),
    )
    for error in left_out:
        typer.echo(f"left out: {error}", err=True)
    typer.echo(f"{folder} is ready: hub.from_pretrained({str(folder)!r})")


class _Line:
    """One line a point of the curve: step, values, and the time left."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None

    def __call__(self, progress: Any) -> None:
        if "loss" not in progress.values:
            return
        now = time.monotonic()
        self.first = self.first or (progress.step, now)
        done, spent = progress.step - self.first[0], now - self.first[1]
        left = f"{(progress.steps - progress.step) * spent / done / 60:.1f} min left" if done else ""
        values = "  ".join(
            f"{name} {value:.4g}"
            for name, value in progress.values.items()
            if name not in ("epoch", "grad_norm", "step")
        )
        typer.echo(f"step {progress.step}/{progress.steps}  {values}  {left}", err=True)
