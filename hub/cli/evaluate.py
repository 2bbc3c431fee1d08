"""``fmhub evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Built-in name, folder, or org/repo.")],
    manifest: Annotated[
        list[Path], typer.Option(help="CSV with file,label and optional group,split,start,stop,item. May be repeated.")
    ],
    probe: Annotated[str, typer.Option(help="linear, knn or nb.")] = "linear",
    folds: Annotated[int, typer.Option(help="Folds of a set without a split column.")] = 5,
    shots: Annotated[int | None, typer.Option(help="Fit on this many rows of each class.")] = None,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    twins: Annotated[int, typer.Option(help="Random initialisations to compare with; 0 for none.")] = 3,
    pooling: Annotated[str | None, typer.Option(help="Reduction of token states to one vector.")] = None,
    layer: Annotated[str | None, typer.Option(help="Hidden state: an index, average, or all.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
) -> None:
    """Probe a model on a labelled set, beside its random twin and a baseline. Prints JSON."""
    from hub.cli.embed import parse_layer
    from hub.embedder import from_pretrained
    from hub.evaluation.evaluate import evaluate as run

    report = run(
        from_pretrained(model, device=device),
        manifest,
        probe=probe,
        folds=folds,
        shots=shots,
        seed=seed,
        twins=twins,
        pooling=pooling,
        layer=parse_layer(layer),
    )
    print(json.dumps(report, indent=1))
