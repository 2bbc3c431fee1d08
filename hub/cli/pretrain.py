"""``fmhub pretrain``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

CLEAR = "\r\x1b[K"
"""To the beginning of the terminal's line, and away with what stands there."""


def pretrain(
    recipe: Annotated[str, typer.Argument(help="YAML file, or a built-in recipe as system/recipe.")],
    data: Annotated[
        str, typer.Option(help="Folder of native files or shards, a manifest (its train part is taken), or org/name.")
    ],
    output_dir: Annotated[Path, typer.Option(help="Folder of the run; it becomes a checkpoint.")],
    resume: Annotated[bool, typer.Option(help="Go on with the run in OUTPUT_DIR where it was.")] = False,
    start_from: Annotated[str | None, typer.Option("--from", help="Checkpoint whose weights to start from.")] = None,
    keep_optimizer: Annotated[bool, typer.Option(help="With --from RUN: take its optimiser's state over too.")] = False,
    anneal_from: Annotated[
        str | None, typer.Option(help="Run at its constant rate: go on from it, annealing to the end.")
    ] = None,
    distill_from: Annotated[
        str | None, typer.Option(help="Further-pretrained checkpoint to draw the token states to.")
    ] = None,
    distill_weight: Annotated[float, typer.Option(help="Of the distance to its token states.")] = 1.0,
    workers: Annotated[int, typer.Option(help="Processes of a Ray Train job; 0 trains in this process.")] = 0,
    column: Annotated[str, typer.Option(help="Column of Parquet shards that holds the files.")] = "",
    cache: Annotated[Path | None, typer.Option(help="Folder to keep prepared samples in between runs.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16, instead of the recipe's.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Of the learning rate, instead of the recipe's.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between resumable checkpoints.")] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps between points of the curve.")] = None,
    monitor_every: Annotated[int | None, typer.Option(help="Steps between two looks at the embeddings.")] = None,
    readers: Annotated[int | None, typer.Option(help="Processes that read and prepare samples.")] = None,
    compile: Annotated[bool | None, typer.Option(help="Translate the task with torch.compile.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the training process.")] = None,
    license: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "other",
) -> None:
    """Pretrain a system by a recipe, on a folder or a manifest.

    Runs alike on a CPU, a GPU, and under torchrun. A run that was killed goes on with --resume as if nothing had
    happened.
    """
    import torch

    from hub.errors import UnsupportedOption
    from hub.training.continuing import Start
    from hub.training.pretrain import Sources
    from hub.training.pretrain import pretrain as run
    from hub.training.recipe import load_recipe
    from hub.training.self_distillation import Distillation

    if threads is not None:
        torch.set_num_threads(threads)
    if anneal_from is not None and start_from is not None:
        raise UnsupportedOption("--anneal-from names the run to go on from; leave --from out", param="anneal-from")
    if keep_optimizer and start_from is None:
        raise UnsupportedOption("--keep-optimizer goes with --from RUN", param="keep-optimizer")
    start = Start(start_from, optimizer=keep_optimizer) if start_from else None
    if anneal_from is not None:
        start, schedule = Start(anneal_from, optimizer=True), "anneal"
    chosen = load_recipe(recipe).with_training(
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        precision=precision,
        schedule=schedule,
        save_every=save_every,
        log_every=log_every,
        monitor_every=monitor_every,
        readers=readers,
        compile=compile,
    )
    sources = Sources(data, column, cache)
    left_out: list[Any] = []
    options: dict[str, Any] = {
        "resume": resume,
        "start": start,
        "distillation": Distillation(distill_from, distill_weight) if distill_from else None,
        "license": license,
        "on_error": left_out.append,
        "on_progress": _Line(sys.stderr.isatty()),
    }
    if workers:
        from hub.training.workers import pretrain_on_workers

        folder = pretrain_on_workers(chosen, sources, output_dir, workers, **options)
    else:
        folder = run(chosen, sources, output_dir, **options)
    for error in left_out:
        typer.echo(f"left out: {error}", err=True)
    typer.echo(f"{folder} is ready: hub.from_pretrained({str(folder)!r})")


class _Line:
    """A line for each point of the curve; at a terminal, one more that is renewed between them."""

    def __init__(self, live: bool) -> None:
        self.live = live

    def __call__(self, progress: Any) -> None:
        minutes = progress.seconds_left / 60
        speed = f"{progress.samples_per_second:.3g} samples/s  {minutes:.1f} min left"
        head = f"step {progress.step}/{progress.steps}"
        if progress.values:
            values = "  ".join(
                f"{name} {value:.4g}"
                for name, value in progress.values.items()
                if name not in ("epoch", "grad_norm", "step")
            )
            typer.echo(f"{CLEAR if self.live else ''}{head}  {values}  {speed}", err=True)
        elif self.live:
            typer.echo(f"{CLEAR}{head}  {speed}", err=True, nl=False)
