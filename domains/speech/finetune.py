"""Fine-tuning on speech: what this domain knows about it, and its script.

``python -m domains.speech.finetune run MODEL --manifest FILE.csv --output-dir OUT ...`` is ``fmhub finetune``;
``python -m domains.speech.finetune compare MODEL --manifest FILE.csv`` prints the table of ``docs/finetuning.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from domains.speech.reading import Waveform
from hub.cli.script import run_script
from hub.finetuning.options import Preset
from hub.reading import Sample

SLOWEST, FASTEST = 0.9, 1.1
"""Range of the speed perturbation of Ko et al. (Interspeech 2015)."""


def change_speed(sample: Sample, generator: torch.Generator) -> Sample:
    """Play a recording at another speed: tempo, pitch and formants change together, what is said does not.

    The samples stay as they are and are said to be of another rate; the processor then resamples them.

    Args:
        sample: Of a `Waveform`.
        generator: Decides the factor, between `SLOWEST` and `FASTEST`.
    """
    waveform: Waveform = sample.data
    factor = SLOWEST + (FASTEST - SLOWEST) * float(torch.rand((), generator=generator))
    played = Waveform(waveform.samples, round(waveform.sampling_rate * factor))
    return Sample(played, sample.key, sample.warnings, sample.metadata)


def preset() -> Preset:
    """Return what this domain knows: pooling that keeps the variation over time, and rates for small encoders."""
    return Preset(
        defaults={
            "frozen": {"pooling": "mean_std"},
            "full": {"pooling": "mean_std", "learning_rate": 5e-4, "head_learning_rate": 5e-3},
            "layerwise": {"pooling": "mean_std", "learning_rate": 5e-4, "head_learning_rate": 5e-3},
            "lora": {"pooling": "mean_std", "learning_rate": 1e-3, "head_learning_rate": 5e-3},
        },
        augment=change_speed,
    )


def compare(
    model: Annotated[str, typer.Argument(help="Checkpoint to start from.")],
    manifest: Annotated[Path, typer.Option(help="CSV with file,label,group; a group, such as a speaker, is left out.")],
    folds: Annotated[int | None, typer.Option(help="Only the first so many groups.")] = None,
    only: Annotated[str | None, typer.Option(help="Comma-separated: frozen, lora, layerwise, full, scratch.")] = None,
    augment: Annotated[bool, typer.Option(help="Speed perturbation, in all but the frozen modes.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes at most, the same for all.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Most samples in a batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, initialisation and dropout.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
) -> None:
    """Compare frozen, LoRA, layer-wise and full fine-tuning with training from scratch, by groups left out."""
    from hub.finetuning.compare import Contender, table
    from hub.finetuning.compare import compare as run

    if threads is not None:
        torch.set_num_threads(threads)
    changed = {"augment": augment}
    known = {
        "frozen": Contender("frozen"),
        "lora": Contender("lora", options=changed),
        "layerwise": Contender("layerwise", options=changed),
        "full": Contender("full", options=changed),
        # Weights that know nothing need more passes.
        "scratch": Contender("full", fresh=True, options={**changed, "epochs": 40, "patience": 10}),
    }
    names = only.split(",") if only else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}", param_hint="--only")
    results = run(
        model,
        manifest,
        {name: known[name] for name in names},
        folds=folds,
        common={"epochs": epochs, "batch_size": batch_size, "seed": seed},
        on_result=lambda name, group, outcome: typer.echo(
            f"{group}: {name}  balanced accuracy {outcome.test['balanced_accuracy']:.3f}  "
            f"pass {outcome.epochs[1]} of {outcome.epochs[0]}  {outcome.seconds:.0f} s",
            err=True,
        ),
    )
    typer.echo(table(results))


def main() -> None:
    """Run the script."""
    run_script({"compare": compare})


if __name__ == "__main__":
    main()
