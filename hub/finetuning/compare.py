"""Ways of fine-tuning side by side, one group left out at a time."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hub.errors import InvalidManifest
from hub.finetuning.data import LabelledSamples
from hub.finetuning.metrics import CHOSEN_BY
from hub.finetuning.options import FinetuneOptions
from hub.finetuning.run import Outcome, Start, fit, labelled_rows, preset_of
from hub.finetuning.splitting import Parts, check_parts
from hub.finetuning.targets import Targets
from hub.manifest import Row


@dataclass(frozen=True)
class Contender:
    """One way of fine-tuning.

    Attributes:
        mode: See `FinetuneOptions`.
        fresh: Initialise the encoder anew.
        options: What replaces the mode's defaults.
    """

    mode: str
    fresh: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def leave_one_group_out(rows: Sequence[Row], targets: Targets) -> Iterator[tuple[str, Parts]]:
    """Yield (group, parts) with each group as the test part in turn; the group after it is the validation part.

    Raises:
        InvalidManifest: There are fewer than three groups, or rows without one.
    """
    groups = sorted({row.group for row in rows})
    if "" in groups or len(groups) < 3:
        raise InvalidManifest("leaving a group out needs a group in every row, and at least three of them")
    for number, test in enumerate(groups):
        valid = groups[(number + 1) % len(groups)]
        chosen = {name: [i for i, row in enumerate(rows) if row.group == name] for name in (test, valid)}
        train = [i for i, row in enumerate(rows) if row.group not in (test, valid)]
        parts = Parts(train, chosen[valid], chosen[test])
        check_parts(parts, rows, targets)
        yield test, parts


def compare(
    model: str | Path,
    manifest: Path,
    contenders: Mapping[str, Contender],
    *,
    task: str = "classification",
    folds: int | None = None,
    common: Mapping[str, Any] | None = None,
    on_result: Callable[[str, str, Outcome], None] = lambda name, group, outcome: None,
) -> dict[str, list[Outcome]]:
    """Run each contender on each fold; all see the same parts, and the test part decides nothing.

    Args:
        model: Checkpoint to start from.
        manifest: Labelled set with a group in every row.
        contenders: By name.
        task: See `FinetuneOptions`.
        folds: Only the first so many groups.
        common: Options of all contenders that are given and not ``None``.
        on_result: Told each contender's name, the group left out, and what it gave.

    Returns:
        Name to outcomes, one a fold.
    """
    start = Start.find(model)
    preset = preset_of(start.system.domain)
    rows = labelled_rows(manifest, preset, ("file", "label", "group"))
    targets = Targets.from_rows(rows, task)
    options = {
        name: FinetuneOptions.for_mode(task, c.mode, preset, **{**c.options, **(common or {})})
        for name, c in contenders.items()
    }
    # Read and prepared once, and once more as they are where a contender augments.
    samples = {
        augmented: LabelledSamples(rows, start.processor, augment=preset.augment if augmented else None)
        for augmented in {o.augment for o in options.values()}
    }
    results: dict[str, list[Outcome]] = {name: [] for name in contenders}
    for group, parts in list(leave_one_group_out(rows, targets))[:folds]:
        for name, contender in contenders.items():
            chosen = options[name]
            with tempfile.TemporaryDirectory() as folder:
                outcome = fit(
                    start, samples[chosen.augment], targets, parts, chosen, Path(folder), fresh=contender.fresh
                )
            results[name].append(outcome)
            on_result(name, group, outcome)
    return results


def table(results: Mapping[str, Sequence[Outcome]], task: str = "classification") -> str:
    """Return the test part's numbers as a Markdown table: mean and standard deviation over the folds."""
    first = next(iter(results.values()))[0]
    metrics = [name for name in first.test if name not in ("loss", "labels_scored")]
    chosen = CHOSEN_BY[task][0]
    metrics.sort(key=lambda name: name != chosen)
    head = ["", *(m.replace("_", " ") for m in metrics), "parameters learnt", "pass kept", "seconds a fold"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, outcomes in results.items():
        cells = [name]
        for metric in metrics:
            values = [o.test[metric] for o in outcomes]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        cells += [
            f"{outcomes[0].trainable:,}",
            f"{np.mean([o.epochs[1] for o in outcomes]):.0f} of {np.mean([o.epochs[0] for o in outcomes]):.0f}",
            f"{np.mean([o.seconds for o in outcomes]):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
