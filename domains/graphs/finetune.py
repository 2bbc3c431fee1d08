"""Fine-tuning on graphs: what this domain knows about it, and its script.

- ``python -m domains.graphs.finetune run MODEL --manifest FILE.csv ...`` is ``fmhub finetune``: classes and numbers of
  whole graphs and molecules. ``python -m domains.graphs.corpora`` makes the manifest of a TUDataset set.
- ``... nodes MODEL FILE --output-dir OUT`` learns the classes of the nodes of one graph.
- ``... links MODEL FILE`` learns which nodes of one graph are linked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from domains.graphs.molecules.finetune import preset as molecule_preset
from hub.cli.script import run_script
from hub.finetuning.options import Preset


def preset() -> Preset:
    """Return the settings of molecular encoders, which carry over to small graphs; pooling is the checkpoint's own."""
    known = molecule_preset()
    return Preset(
        {mode: {k: v for k, v in options.items() if k != "pooling"} for mode, options in known.defaults.items()},
        known.augment,
    )


def nodes(
    model: Annotated[str, typer.Argument(help="Checkpoint to start from.")],
    file: Annotated[Path, typer.Argument(help="One graph with labelled nodes: .npz, or Planetoid's ind.NAME.graph.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write; it becomes a checkpoint.")],
    mode: Annotated[str, typer.Option(help="frozen or full.")] = "frozen",
    from_scratch: Annotated[bool, typer.Option(help="Initialise the encoder anew, to compare with.")] = False,
    epochs: Annotated[int, typer.Option(help="Full-batch steps, at most.")] = 300,
    learning_rate: Annotated[float, typer.Option(help="Of the encoder.")] = 1e-3,
    head_learning_rate: Annotated[float, typer.Option(help="Of the head.")] = 1e-2,
    seed: Annotated[int, typer.Option(help="Of initialisation and dropout.")] = 0,
) -> None:
    """Learn the classes of the nodes of one graph; the result labels nodes."""
    from domains.graphs.transductive import Schedule, classify_nodes

    schedule = Schedule(mode, epochs, learning_rate, head_learning_rate, seed=seed)
    typer.echo(json.dumps(classify_nodes(model, file, output_dir, schedule, from_scratch)))


def links(
    model: Annotated[str, typer.Argument(help="Checkpoint to start from.")],
    file: Annotated[Path, typer.Argument(help="One graph.")],
    mode: Annotated[str, typer.Option(help="frozen or full.")] = "frozen",
    from_scratch: Annotated[bool, typer.Option(help="Initialise the encoder anew, to compare with.")] = False,
    epochs: Annotated[int, typer.Option(help="Full-batch steps, at most.")] = 300,
    learning_rate: Annotated[float, typer.Option(help="Of the encoder.")] = 1e-3,
    head_learning_rate: Annotated[float, typer.Option(help="Of the head.")] = 1e-2,
    seed: Annotated[int, typer.Option(help="Of parts, initialisation and dropout.")] = 0,
) -> None:
    """Learn which nodes of one graph are linked; prints how well held-out links are found."""
    from domains.graphs.transductive import Schedule, predict_links

    schedule = Schedule(mode, epochs, learning_rate, head_learning_rate, seed=seed)
    typer.echo(json.dumps(predict_links(model, file, schedule, from_scratch)))


def main() -> None:
    """Run the script."""
    run_script({"nodes": nodes, "links": links})


if __name__ == "__main__":
    main()
