"""Forgetting when two data sets are trained on in turn: cosine schedules repeated, beside the infinite schedule.

    python -m benchmarks.forgetting benchmarks/forgetting.yaml FIRST SECOND --output-dir OUT

FIRST and SECOND are folders or manifests. Every tenth file of each is held out; the table gives the pretext loss on
these after the first and after the second stage, with the same crops and masks throughout. Each stage takes the same
number of steps either way: the infinite schedule's stages end in an annealed branch of a fifth of them, and its second
stage goes on from the first one's constant phase, without warming up anew (arXiv:2503.02844).
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

from hub.training.collation import seeded_generator
from hub.training.continuing import Start
from hub.training.data import Collation, TrainingData
from hub.training.index import index_data
from hub.training.plan import Pick
from hub.training.pretrain import Sources, build_task, pretrain
from hub.training.recipe import Recipe, load_recipe

ANNEALED = 0.2
"""Share of a stage's steps that the infinite schedule's annealing takes."""


def held_out(recipe: Recipe, source: Path, folder: Path) -> tuple[Path, Path]:
    """Write two manifests: nine of ten files, and every tenth; return their paths."""
    _, processor = build_task(recipe)
    reader = processor.reader()
    collator = recipe.system.load("collator")(processor, build_task(recipe)[0].config, **recipe.pretext)
    entries = index_data(source, recipe.system.domain, reader, collator, on_error=print)
    files = sorted({e.file for e in entries})
    paths = folder / f"{source.stem}-train.csv", folder / f"{source.stem}-held-out.csv"
    for path, some in zip(paths, ([f for i, f in enumerate(files) if i % 10 != 9], files[9::10]), strict=True):
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file"])
            writer.writerows([str(Path(f).resolve())] for f in some)
    return paths


@torch.no_grad()
def loss_on(recipe: Recipe, run: Path, manifest: Path) -> float:
    """Mean pretext loss of a run's checkpoint on a manifest, batch by batch of sixteen, seeds fixed."""
    task, processor = build_task(recipe, Start(run))
    collator = recipe.system.load("collator")(processor, task.config, **recipe.pretext)
    reader = processor.reader()
    entries = index_data(manifest, recipe.system.domain, reader, collator, on_error=print)
    data = TrainingData(entries, reader, collator, seed=12345)
    collation = Collation(collator, seed=12345)
    task.eval()
    order = torch.randperm(len(data), generator=seeded_generator(1)).tolist()
    losses = []
    for number, start in enumerate(range(0, len(order), 16)):
        batch = collation([data[Pick(0, index, number)] for index in order[start : start + 16]])
        batch.pop("indices")
        losses.append(float(task(**batch).loss))
    return float(np.mean(losses))


def stages(recipe: Recipe, steps: int, schedule: str, data: tuple[Path, Path], output: Path) -> tuple[Path, Path]:
    """Train on two sets in turn; return the runs that end the two stages."""

    def run(name: str, which: int, length: int, how: str, start: Start | None) -> Path:
        changed = recipe.with_training(steps=length, schedule=how, save_every=length, log_every=length // 5)
        folder = output / name
        return (
            folder
            if (folder / "model.safetensors").exists()
            else pretrain(changed, Sources(data[which], cache=output.parent / "cache"), folder, start=start)
        )

    if schedule == "cosine":
        first = run("first", 0, steps, "cosine", None)
        return first, run("second", 1, steps, "cosine", Start(first))
    last = round(ANNEALED * steps)
    constant = run("constant-first", 0, steps - last, "infinite", None)
    first = run("first", 0, last, "anneal", Start(constant, optimizer=True))
    constant = run("constant-second", 1, steps - last, "hold", Start(constant, optimizer=True))
    return first, run("second", 1, last, "anneal", Start(constant, optimizer=True))


def main() -> None:
    """Run, measure, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--steps", type=int, default=500, help="of each of the two stages")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(options.recipe)
    sets = [held_out(recipe, source, options.output_dir) for source in (options.first, options.second)]
    train = sets[0][0], sets[1][0]
    results: dict[str, list[list[float]]] = {}
    for seed in range(options.seeds):
        for schedule in ("cosine", "infinite"):
            seeded = recipe.with_training(seed=seed)
            runs = stages(seeded, options.steps, schedule, train, options.output_dir / f"{schedule}-{seed}")
            losses = [loss_on(seeded, run, part[1]) for part in sets for run in runs]
            results.setdefault(schedule, []).append(losses)
            print(schedule, seed, [round(loss, 4) for loss in losses], flush=True)
    (options.output_dir / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print("| schedule | first set, after first | first set, after second | forgetting | second set, after second |")
    print("|---|---|---|---|---|")
    for schedule, rows in results.items():
        table = np.array(rows)
        columns = (table[:, 0], table[:, 1], table[:, 1] - table[:, 0], table[:, 3])
        print(f"| {schedule} | " + " | ".join(f"{c.mean():.4f} ± {c.std(ddof=1):.4f}" for c in columns) + " |")


if __name__ == "__main__":
    main()
