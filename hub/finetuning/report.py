"""What a fine-tuning run leaves for people: its curve and its card; every number in them was measured in the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hub.domain import System
from hub.finetuning.metrics import CHOSEN_BY
from hub.finetuning.options import FinetuneOptions
from hub.publishing import card_metadata, write_card
from hub.training.report import draw_curve

if TYPE_CHECKING:
    from hub.finetuning.run import Outcome

MODES = {
    "frozen": "the encoder frozen, the head trained on its states",
    "full": "encoder and head trained together",
    "layerwise": "encoder and head trained together, with smaller steps in lower layers",
    "lora": "low-rank adapters and the head trained, the adapters then merged into the weights",
}
MANY_LABELS = 40
"""Above so many, a card counts labels instead of naming them."""


def write_report(
    folder: Path,
    name: str,
    base: str,
    system: System,
    manifest: Path,
    options: FinetuneOptions,
    outcome: Outcome,
    fresh: bool,
    license: str,
) -> None:
    """Write the curve and the card.

    Args:
        folder: The checkpoint's.
        name: What it will be called.
        base: Model that it was started from.
        system: Its system.
        manifest: Labelled set.
        options: Of the run.
        outcome: Of the run.
        fresh: Whether the encoder was initialised anew.
        license: Of the weights.
    """
    shown = [{k: v for k, v in point.items() if k != "eval_labels_scored"} for point in outcome.history]
    draw_curve(shown, folder / "training_curve.png", title=f"{system.title}: {manifest.stem}")
    spec = outcome.model.spec
    metric = CHOSEN_BY[options.task][0]
    results = [
        {"task": options.task, "dataset": manifest.stem, "metric": key, "value": round(value, 4)}
        for key, value in outcome.test.items()
        if key not in ("loss", "labels_scored")
    ]
    metadata = card_metadata(
        system,
        license=license,
        name=name,
        datasets=[manifest.stem],
        results=results,
        parameters=outcome.model.num_parameters(),
        finetuned={"from": None if fresh else base, "task": options.task, "mode": options.mode, "serves": spec.answer},
    )
    if not fresh:
        metadata["base_model"] = base
    labels = ", ".join(f"`{label}`" for label in spec.labels[:MANY_LABELS])
    more = f" and {len(spec.labels) - MANY_LABELS} more" if len(spec.labels) > MANY_LABELS else ""
    origin = f"the architecture of {base}, initialised anew" if fresh else base
    table = ""
    for part, scores in (("valid", outcome.valid), ("test", outcome.test)):
        cells = [f"{scores[key]:.4f}" for key in _columns(outcome) if key in scores]
        table += f"| {part} | {outcome.rows[part]} | {' | '.join(cells)} |\n" if scores else ""
    head = " | ".join(key.replace("_", " ") for key in _columns(outcome))
    write_card(
        folder,
        metadata,
        f"""# {name}

Fine-tuned with fmhub from {origin}, for {options.task} on `{manifest.stem}`: {MODES[options.mode]}.

```python
import hub

model = hub.from_pretrained("{name}")  # or the folder that holds this file
model.run("{spec.answer}", ["file1", "file2"])
```

Served, it answers `POST /v1/models/{name}/{spec.answer}`. Its embeddings are those of the fine-tuned encoder.

Labels: {labels}{more}.

## Training

{outcome.rows["train"]} samples; {outcome.trainable:,} parameters learnt. {outcome.epochs[0]} passes were run, and the
weights of pass {outcome.epochs[1]} kept{f", the best by {metric.replace('_', ' ')}" if outcome.valid else ""}. It took
{outcome.seconds / 60:.1f} minutes. Head on layer {spec.layer}, pooling {spec.pooling}; seed {options.seed}.
All options: `finetuning.json`.

| part | samples | {head} |
|{"---|" * (2 + len(_columns(outcome)))}
{table}
![training curve](training_curve.png)

## Limitations

Measured on one split. The validation part chose the pass, so its numbers are flattering; those of the test part are not
touched by any choice of the run.
""",
    )


def _columns(outcome: Outcome) -> list[str]:
    return list(outcome.test or outcome.valid)
