"""Fine-tuning on flows: what this domain knows about it, and its script.

- ``python -m domains.network.finetune labels LABELS.csv MANIFEST.csv`` makes a manifest of labels by endpoints.
- ``... run MODEL --manifest FILE.csv ...`` is ``fmhub finetune`` with flows of one capture kept on one side of every
  split: classes, several labels, or numbers of flows.
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from hub.finetuning.options import Preset


def preset() -> Preset:
    """Return settings for small encoders, which are not tuned: mean and deviation of the states of all layers."""
    frozen = {"pooling": "mean_std", "layer": "all", "batch_size": 64}
    whole = {**frozen, "learning_rate": 3e-4, "head_learning_rate": 2e-3, "batch_size": 32, "epochs": 30, "patience": 8}
    return Preset(defaults={"frozen": frozen, "full": whole, "layerwise": whole, "lora": whole})


def labels(
    table: Annotated[Path, typer.Argument(help="CSV with file,proto,src_ip,src_port,dst_ip,dst_port,label.")],
    output: Annotated[Path, typer.Argument(help="Manifest to write.")],
    compat: Annotated[bool, typer.Option(help="Cut captures to flows as the published tools do.")] = False,
) -> None:
    """Make a manifest of labels by endpoints: each row names a flow of its capture, and no address."""
    from domains.network.labelling import manifest_of

    found, lost = manifest_of(table, output, compat)
    typer.echo(f"{found} labelled flows in {output}" + (f"; {lost} rows name no flow" if lost else ""))


def run_command() -> Any:
    """Return ``fmhub finetune`` with one option more."""
    import inspect

    from domains.network.labelling import write_grouped
    from hub.cli.finetune import finetune

    @functools.wraps(finetune)
    def run(*args: Any, manifest: Path, shared_captures: bool = False, **options: Any) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            grouped = write_grouped(manifest, Path(scratch) / manifest.name, shared_captures)
            finetune(*args, manifest=grouped, **options)

    signature = inspect.signature(finetune, eval_str=True)
    shared = inspect.Parameter(
        "shared_captures",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option(help="Allow flows of one capture on both sides of a split.")],
    )
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), shared])  # type: ignore[attr-defined]
    run.__annotations__ = {name: p.annotation for name, p in run.__signature__.parameters.items()}  # type: ignore[attr-defined]
    return run


def main() -> None:
    """Run the script."""
    # Bars of libraries would break up the lines that are printed.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from hub.errors import HubError

    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command("labels")(labels)
    app.command("run")(run_command())
    try:
        app()
    except HubError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
