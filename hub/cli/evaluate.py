"""``fmhub evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Built-in name, folder, or org/repo.")],
    manifest: Annotated[
        list[Path], typer.Option(help="CSV with file,label and optional group,split,start,stop,item. May be repeated.")
    ],
    probe: Annotated[str, typer.Option(help="linear, knn or nb.")] = "linear",
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Choose the linear probe's C on held-out train rows; otherwise C=1.")
    ] = False,
    neighbours: Annotated[
        int | None, typer.Option(help="k of knn; 5, or the rows of the rarest class, if not given.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="T of knn: neighbours vote with exp(similarity / T).")] = 0.1,
    folds: Annotated[int, typer.Option(help="Folds of a set without a split column.")] = 5,
    shots: Annotated[int | None, typer.Option(help="Fit on this many rows of each class.")] = None,
    seed: Annotated[int, typer.Option(help="Of the folds, the twins and the resampling.")] = 0,
    twins: Annotated[int, typer.Option(help="Random initialisations to compare with; 0 for none.")] = 3,
    pooling: Annotated[str | None, typer.Option(help="Reduction of token states to one vector.")] = None,
    layer: Annotated[str | None, typer.Option(help="Hidden state: an index, average, or all.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder to write a report with tables and pictures to.")] = None,
) -> None:
    """Probe a model on a labelled set, beside its random twin and a baseline. Prints JSON."""
    from hub.cli.embed import parse_layer
    from hub.embedder import from_pretrained
    from hub.evaluation.evaluate import evaluate as run

    summary = run(
        from_pretrained(model, device=device),
        manifest,
        probe=probe,
        sweep=sweep,
        neighbours=neighbours,
        temperature=temperature,
        folds=folds,
        shots=shots,
        seed=seed,
        twins=twins,
        pooling=pooling,
        layer=parse_layer(layer),
        report=report,
    )
    print(json.dumps(summary, indent=1, allow_nan=False))
    if report is not None:
        print(f"report: {report / 'report.md'}", file=sys.stderr)
