"""What is at a place: linear models on the vectors of small boxes cut around labelled voxels.

    python -m domains.medical.alice.places SET MODEL --side 32 --pooling centre

SET holds ``images`` and ``patches.csv`` (file, split, x, y, z, label; voxels of a volume in RAS+ order). Each volume is
brought to 0 to 1 as a whole, and a box of ``side`` voxels around each place is cut out of it, its border repeated where
the box reaches over. Beside the model stand the same network with fresh weights, intensity statistics of the box, and
its voxels themselves.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hub
from domains.medical.alice.processing import AliceProcessor
from domains.medical.baseline import image_statistics
from domains.medical.image import MedicalImage
from hub.embedder import Embedder
from hub.reading import Sample, Source

STRENGTH = 0.01
"""Inverse regularisation of the linear model."""
FOLDS = 5
SEEDS = (0, 1, 2)
TWINS = (0, 1, 2)
AT_ONCE = 32


@dataclass(frozen=True)
class Places:
    """Labelled boxes.

    Attributes:
        boxes: ``(places, side, side, side)`` from 0 to 1.
        labels: ``(places,)``.
        cases: Of each the name of its volume.
        train: Of each whether the set's split learns from it.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    cases: NDArray[np.str_]
    train: NDArray[np.bool_]

    @classmethod
    def read(cls, folder: Path, processor: AliceProcessor, side: int) -> Places:
        """Cut the boxes of a set."""
        with (folder / "patches.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        reader, half = processor.reader(), side // 2
        volumes = {}
        for name in sorted({row["file"] for row in rows}):
            sample = next(iter(reader.read(Source.from_path(folder / "images" / name))))
            volumes[name] = np.pad(processor.volume(sample).numpy(), half, mode="edge")
        boxes = []
        for row in rows:
            x, y, z = (int(row[axis]) for axis in "xyz")
            boxes.append(volumes[row["file"]][x : x + side, y : y + side, z : z + side])
        return cls(
            np.stack(boxes),
            np.array([int(row["label"]) for row in rows]),
            np.array([row["file"] for row in rows]),
            np.array([row["split"] == "train" for row in rows]),
        )

    def vectors(self, embedder: Embedder, pooling: str | None) -> NDArray[np.float32]:
        """Embed the boxes as they are, each a volume of its own; smaller ones than a window are extended."""
        processor = embedder.processor
        assert isinstance(processor, AliceProcessor)
        found: list[torch.Tensor] = []
        for first in range(0, len(self.boxes), AT_ONCE):
            features = [processor.extended(torch.from_numpy(b)) for b in self.boxes[first : first + AT_ONCE]]
            found += embedder.model.embed(processor.pad(features), pooling=pooling)
        return torch.stack(found).numpy()

    def statistics(self) -> NDArray[np.float32]:
        """Return the domain's hand-made features of the boxes."""
        return np.stack([image_statistics(Sample(MedicalImage(box[None]))) for box in self.boxes])

    def voxels(self) -> NDArray[np.float32]:
        """Return the boxes at a side of 8."""
        factor = self.boxes.shape[1] // 8
        shape = (len(self.boxes), 8, factor, 8, factor, 8, factor)
        return self.boxes.reshape(shape).mean(axis=(2, 4, 6)).reshape(len(self.boxes), -1)

    def score(self, features: NDArray[np.float32]) -> dict[str, float]:
        """Return accuracy and macro AUC of the set's split, and their mean and deviation over folds grouped by case."""
        accuracy, auc = self._fold(features, self.train)
        folds = []
        for seed in SEEDS:
            order = np.random.default_rng(seed).permutation(np.unique(self.cases))
            fold = {case: place % FOLDS for place, case in enumerate(order)}
            number = np.array([fold[case] for case in self.cases])
            folds += [self._fold(features, number != k) for k in range(FOLDS)]
        mean, deviation = np.mean(folds, axis=0), np.std(folds, axis=0)
        return {
            "split_accuracy": accuracy,
            "split_auc": auc,
            "accuracy": float(mean[0]),
            "accuracy_sd": float(deviation[0]),
            "auc": float(mean[1]),
            "auc_sd": float(deviation[1]),
        }

    def _fold(self, features: NDArray[np.float32], train: NDArray[np.bool_]) -> tuple[float, float]:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=3000))
        model.fit(features[train], self.labels[train])
        found, labels = model.predict_proba(features[~train]), self.labels[~train]
        areas = [roc_auc_score(labels == label, found[:, i]) for i, label in enumerate(model.classes_)]
        return float(accuracy_score(labels, model.classes_[found.argmax(1)])), float(np.mean(areas))


def compare(embedder: Embedder, places: Places, pooling: str | None) -> dict[str, dict[str, float]]:
    """Return the scores of a model and of what it is held against, by name."""
    contenders: dict[str, Callable[[], NDArray[np.float32]]] = {
        embedder.name: lambda: places.vectors(embedder, pooling),
        "intensity statistics": places.statistics,
        "voxels, 8 x 8 x 8": places.voxels,
    }
    scores = {name: places.score(vectors()) for name, vectors in contenders.items()}
    twins = [places.score(places.vectors(embedder.random_twin(seed), pooling)) for seed in TWINS]
    scores[f"random weights, mean of {len(TWINS)}"] = {k: float(np.mean([t[k] for t in twins])) for k in twins[0]}
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", type=Path, help="folder with images and patches.csv")
    parser.add_argument("model", help="Alice checkpoint: a name or a folder")
    parser.add_argument("--side", type=int, default=16, help="voxels along the side of a box, a multiple of 8")
    parser.add_argument("--pooling", default=None, help="of the model")
    given = parser.parse_args(arguments)
    embedder = hub.from_pretrained(given.model)
    if not isinstance(embedder.processor, AliceProcessor):
        raise SystemExit(f"{given.model} is no Alice checkpoint")
    places = Places.read(given.set, embedder.processor, given.side)
    print(f"| boxes of {given.side} voxels | split accuracy | split AUC | accuracy | AUC |\n|---|---|---|---|---|")
    for name, s in compare(embedder, places, given.pooling).items():
        folds = f"{s['accuracy']:.3f} ± {s['accuracy_sd']:.3f} | {s['auc']:.3f} ± {s['auc_sd']:.3f}"
        print(f"| {name} | {s['split_accuracy']:.3f} | {s['split_auc']:.3f} | {folds} |", flush=True)


if __name__ == "__main__":
    main()
