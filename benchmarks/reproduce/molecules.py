"""Molecular property prediction with the scaffold split: pretrained, from scratch, frozen, and fingerprints.

    python -m domains.graphs.molecules.corpora MOLECULENET SETS
    python benchmarks/reproduce/molecules.py SETS OUT --model graphmae-mol-tiny --model dsla-mol-tiny

Every result is kept in ``OUT/results.json`` as it comes, so a run that was stopped goes on where it was; the table is
``OUT/table.md``. The validation part chooses the pass (or the strength of regularisation), the test part decides
nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

import hub
from domains.graphs.molecules.finetune import preset
from hub.finetuning.data import LabelledSamples, padded_batches
from hub.finetuning.metrics import multilabel_metrics
from hub.finetuning.options import FinetuneOptions
from hub.finetuning.run import Start, fit
from hub.finetuning.splitting import Parts, split
from hub.finetuning.targets import Targets
from hub.manifest import read_manifest
from hub.processing import Processor

Array = NDArray[np.float64]
TASKS = {"bbbp": "multilabel", "bace": "multilabel", "sider": "multilabel", "esol": "regression"}
EMBEDDINGS: dict[str, dict[str, Any]] = {"": {}, " (mean of the last layer)": {"pooling": "mean", "layer": -1}}
"""The checkpoint's own embedding, and the published one."""
INVERSE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


class LabelledMolecules:
    """One set with its split."""

    def __init__(self, folder: Path, name: str) -> None:
        """Read ``<name>.csv``."""
        self.name, self.task = name, TASKS[name]
        self.rows = read_manifest(folder / f"{name}.csv", need=("file", "label", "split"))
        self.targets = Targets.from_rows(self.rows, self.task)
        self.parts: Parts = split(self.rows, self.targets, 0.1, 0.1, 0)
        self.labels: Array = torch.stack(self.targets.values).double().numpy()
        lines = self.rows[0].file.read_text(encoding="utf-8").splitlines()
        self._samples: LabelledSamples | None = None
        self.smiles = [lines[int(row.item.removeprefix("line ")) - 1] for row in self.rows]

    def samples(self, processor: Processor) -> LabelledSamples:
        """Return the prepared molecules, which are the same for all models: read once."""
        if self._samples is None:
            self._samples = LabelledSamples(self.rows, processor)
        return self._samples

    def score(self, outputs: Array, rows: list[int]) -> float:
        """Return ROC-AUC (mean over labels with both kinds) in percent, or the root mean squared error."""
        truth = self.labels[rows]
        if self.task == "multilabel":
            return 100 * multilabel_metrics(outputs, truth)["macro_auc"]
        return float(np.sqrt(np.nanmean(np.square(outputs - truth))))

    @property
    def better(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.task == "multilabel" else -1


def fingerprints(molecules: LabelledMolecules) -> Array:
    """Return ECFP4 of 2,048 bits."""
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    return np.stack([generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(s)) for s in molecules.smiles]).astype(float)


def linear(molecules: LabelledMolecules, features: Array) -> float:
    """Return the test score of a linear model, its strength of regularisation chosen on the validation part."""
    parts = molecules.parts
    best: tuple[float, float] | None = None
    for strength in INVERSE_STRENGTHS:
        outputs = _linear_outputs(molecules, features, strength)
        valid = molecules.better * molecules.score(outputs[parts.valid], parts.valid)
        if best is None or valid > best[0]:
            best = (valid, molecules.score(outputs[parts.test], parts.test))
    assert best is not None
    return best[1]


def _linear_outputs(molecules: LabelledMolecules, features: Array, strength: float) -> Array:
    """Fit each label on the train part; return the outputs for all rows, ``(rows, labels)``."""
    outputs = np.zeros_like(molecules.labels)
    train = np.asarray(molecules.parts.train)
    for column in range(molecules.labels.shape[1]):
        truth = molecules.labels[train, column]
        known = ~np.isnan(truth)
        chosen, truth = train[known], truth[known]
        if molecules.task == "regression":
            model: Any = Ridge(alpha=1 / strength).fit(features[chosen], truth)
            outputs[:, column] = model.predict(features)
        elif len(set(truth)) == 2:
            # Both find the same optimum; each is fast where the other is slow.
            solver = "newton-cholesky" if features.shape[1] < len(chosen) else "lbfgs"
            model = LogisticRegression(C=strength, solver=solver, max_iter=2000).fit(features[chosen], truth)
            outputs[:, column] = model.decision_function(features)
    return outputs


def _on_fingerprints(molecules: LabelledMolecules) -> float:
    return linear(molecules, fingerprints(molecules))


def frozen(molecules: LabelledMolecules, embedder: hub.Embedder, how: dict[str, Any]) -> float:
    """Return the test score of a linear model on an encoder's frozen embeddings, standardised."""
    vectors = np.asarray(embedder.embed(molecules.rows[0].file, **how).vectors, dtype=np.float64)
    order = [int(row.item.removeprefix("line ")) - 1 for row in molecules.rows]
    vectors = vectors[order]
    return linear(molecules, StandardScaler().fit(vectors[molecules.parts.train]).transform(vectors))


def finetuned(molecules: LabelledMolecules, start: Start, seed: int, epochs: int, *, fresh: bool) -> float:
    """Return the test score of encoder and head after fine-tuning, or after training from fresh weights."""
    given = {"epochs": epochs, "patience": epochs, "seed": seed}
    options = FinetuneOptions.for_mode(molecules.task, "full", preset(), **given)
    samples = molecules.samples(start.processor)
    with tempfile.TemporaryDirectory() as folder:
        outcome = fit(start, samples, molecules.targets, molecules.parts, options, Path(folder), fresh=fresh)
    model, outputs, order = outcome.model, [], []
    with torch.inference_mode():
        for rows, batch in padded_batches(samples, molecules.parts.test, start.processor.batch_cost, model.device):
            found = model.logits(batch)[0]
            outputs.append(model.task_head.in_units(found) if molecules.task == "regression" else found)
            order += rows
    return molecules.score(torch.cat(outputs).double().cpu().numpy(), order)


Run = tuple[str, str, int, Callable[[], float]]


def runs(
    folder: Path, models: list[str], frozen_only: list[str], names: list[str], seeds: int, epochs: int
) -> Iterator[Run]:
    """Yield (contender, set, seed, how to get its score), the quick ones first.

    The models to fine-tune share an architecture: random weights and training without pretraining use the first one's.
    """
    sets = {name: LabelledMolecules(folder, name) for name in names}
    for name, molecules in sets.items():
        yield "ECFP4 + linear", name, 0, partial(_on_fingerprints, molecules)
        for model in (*models, *frozen_only):
            embedder = hub.from_pretrained(model)
            label = Path(model).name
            for embedding, how in EMBEDDINGS.items():
                if embedding and model not in models:
                    continue  # further checkpoints are measured as they are
                yield f"{label}{embedding}, frozen + linear", name, 0, partial(frozen, molecules, embedder, how)
                for seed in range(seeds if model == models[0] else 0):
                    twin = embedder.random_twin(seed)
                    yield (
                        f"random weights{embedding}, frozen + linear",
                        name,
                        seed,
                        partial(frozen, molecules, twin, how),
                    )
    for seed in range(seeds):
        for name, molecules in sets.items():
            fresh = partial(finetuned, molecules, Start.find(models[0]), seed, epochs, fresh=True)
            yield "no pretraining, trained whole", name, seed, fresh
            for model in models:
                tuned = partial(finetuned, molecules, Start.find(model), seed, epochs, fresh=False)
                yield f"{Path(model).name}, fine-tuned", name, seed, tuned


def table(results: dict[str, dict[str, dict[str, float]]], names: list[str]) -> str:
    """Return contenders by sets as Markdown: mean and standard deviation over seeds."""
    heads = [f"{name.upper()} {'AUC %' if TASKS[name] == 'multilabel' else 'RMSE'}" for name in names]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(names) + 1) + "|"]
    for contender, by_set in results.items():
        cells = []
        for name in names:
            values = list(by_set.get(name, {}).values())
            digits = 1 if TASKS[name] == "multilabel" else 3
            spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.{digits}f}{spread}" if values else "")
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(
    sets: Annotated[Path, typer.Argument(help="Folder that domains.graphs.molecules.corpora wrote.")],
    output: Annotated[Path, typer.Argument(help="Folder for results.json and table.md.")],
    model: Annotated[list[str], typer.Option(help="Checkpoint; may be given several times.")],
    frozen_only: Annotated[list[str] | None, typer.Option(help="Checkpoint to measure frozen, not fine-tuned.")] = None,
    only: Annotated[str, typer.Option(help="Comma-separated sets.")] = ",".join(TASKS),
    seeds: Annotated[int, typer.Option(help="Runs of each contender that depends on chance.")] = 3,
    epochs: Annotated[int, typer.Option(help="Passes of fine-tuning.")] = 30,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Measure all contenders on all sets and print the table."""
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    names = only.split(",")
    for contender, name, seed, score in runs(sets, model, frozen_only or [], names, seeds, epochs):
        done = results.setdefault(contender, {}).setdefault(name, {})
        if str(seed) in done:
            continue
        done[str(seed)] = score()
        typer.echo(f"{name}: {contender}, seed {seed}: {done[str(seed)]:.3f}", err=True)
        path.write_text(json.dumps(results, indent=1))
    (output / "table.md").write_text(table(results, names))
    typer.echo(table(results, names))


if __name__ == "__main__":
    typer.run(main)
