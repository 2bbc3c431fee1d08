"""Fine-tuning on flows: what this domain knows about it, and its script.

- ``python -m domains.network.finetune labels LABELS.csv MANIFEST.csv`` makes a manifest of labels by endpoints.
- ``... run MODEL --manifest FILE.csv ...`` is ``fmhub finetune``: classes, several labels, or numbers of flows. Flows
  of one capture are kept on one side of every split, unless ``--leaky-split`` is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hub.cli.script import run_script
from hub.finetuning.options import Preset


def preset() -> Preset:
    """Return what this domain knows: captures stay whole, and settings for small encoders, which are not tuned."""
    frozen = {"pooling": "mean_std", "layer": "all", "batch_size": 64}
    whole = {**frozen, "learning_rate": 3e-4, "head_learning_rate": 2e-3, "batch_size": 32, "epochs": 30, "patience": 8}
    from domains.network.labelling import grouped_by_capture

    defaults = {"frozen": frozen, "full": whole, "layerwise": whole, "lora": whole}
    return Preset(defaults=defaults, rows=grouped_by_capture)


def labels(
    table: Annotated[Path, typer.Argument(help="CSV with file,proto,src_ip,src_port,dst_ip,dst_port,label.")],
    output: Annotated[Path, typer.Argument(help="Manifest to write.")],
    compat: Annotated[bool, typer.Option(help="Cut captures to flows as the published tools do.")] = False,
) -> None:
    """Make a manifest of labels by endpoints: each row names a flow of its capture, and no address."""
    from domains.network.labelling import manifest_of

    found, lost = manifest_of(table, output, compat)
    typer.echo(f"{found} labelled flows in {output}" + (f"; {lost} rows name no flow" if lost else ""))


def main() -> None:
    """Run the script."""
    run_script({"labels": labels})


if __name__ == "__main__":
    main()
