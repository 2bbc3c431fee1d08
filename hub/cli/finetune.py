"""``fmhub finetune``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def finetune(
    model: Annotated[str, typer.Argument(help="Checkpoint to start from: built-in name, folder, or org/repo.")],
    manifest: Annotated[Path, typer.Option(help="CSV with file,label and optional group,split,start,stop,item.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write; it becomes a checkpoint.")],
    task: Annotated[
        str, typer.Option(help="classification, multilabel, regression, frames or dense.")
    ] = "classification",
    mode: Annotated[str, typer.Option(help="frozen, full, layerwise or lora.")] = "frozen",
    from_scratch: Annotated[bool, typer.Option(help="Initialise the encoder anew, to compare with.")] = False,
    labels: Annotated[str | None, typer.Option(help="Names of the outputs in their order, comma-separated.")] = None,
    pooling: Annotated[str | None, typer.Option(help="Reduction of token states to one vector.")] = None,
    layer: Annotated[str | None, typer.Option(help="Hidden state: an index, average, or all.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of the head's hidden layer; 0 for a linear head.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training part, at most.")] = None,
    patience: Annotated[int | None, typer.Option(help="Passes without a better one before the run ends.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Most samples in a batch.")] = None,
    batch_cost: Annotated[int | None, typer.Option(help="Largest padded cost of a batch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak, of the encoder or its adapters.")] = None,
    head_learning_rate: Annotated[float | None, typer.Option(help="Peak, of the head.")] = None,
    layer_decay: Annotated[float | None, typer.Option(help="Factor on the rate from a layer to the one below.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of the adapters.")] = None,
    class_weights: Annotated[str | None, typer.Option(help="none or balanced.")] = None,
    valid_share: Annotated[float | None, typer.Option(help="Share of the training part for early stopping.")] = None,
    test_share: Annotated[float | None, typer.Option(help="Share of a set without a split column to test on.")] = None,
    augment: Annotated[bool | None, typer.Option(help="Use the domain's augmentation, if it has one.")] = None,
    leaky_split: Annotated[
        bool, typer.Option("--leaky-split", help="Let a group (a subject, a capture) be on both sides of the split.")
    ] = False,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of splits, order, initialisation and dropout.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    license: Annotated[str | None, typer.Option(help="Of the weights; the starting model's unless given.")] = None,
) -> None:
    """Fine-tune a model on a labelled set; the result loads and serves with its task.

    What is not given is the domain's choice for the mode. A group is on two sides of the split only if told to.
    """
    import torch

    from hub.cli.embed import parse_layer
    from hub.finetuning.run import finetune as run

    if threads is not None:
        torch.set_num_threads(threads)
    left_out: list[Any] = []
    outcome = run(
        model,
        manifest,
        output_dir,
        {
            "task": task,
            "mode": mode,
            "labels": tuple(name.strip() for name in labels.split(",")) if labels else None,
            "pooling": pooling,
            "layer": parse_layer(layer),
            "hidden": hidden,
            "epochs": epochs,
            "patience": patience,
            "batch_size": batch_size,
            "batch_cost": batch_cost,
            "learning_rate": learning_rate,
            "head_learning_rate": head_learning_rate,
            "layer_decay": layer_decay,
            "lora_rank": lora_rank,
            "class_weights": class_weights,
            "valid_share": valid_share,
            "test_share": test_share,
            "augment": augment,
            "leaky_split": leaky_split,
            "precision": precision,
            "seed": seed,
        },
        fresh=from_scratch,
        license=license,
        on_error=left_out.append,
        on_epoch=lambda number, metrics: typer.echo(f"pass {number}  {_values(metrics)}", err=True),
    )
    for error in left_out:
        typer.echo(f"left out: {error}", err=True)
    typer.echo(f"kept pass {outcome.epochs[1]} of {outcome.epochs[0]}", err=True)
    if outcome.test:
        typer.echo(f"test  {_values(outcome.test)}", err=True)
    answer = outcome.model.spec.answer
    typer.echo(f"{output_dir} is ready: hub.from_pretrained({str(output_dir)!r}).run({answer!r}, [...])")


def _values(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in metrics.items())
