"""A model of flows beside its random twins and simple features: applications, noisy labels, shortcuts, attacks.

``python -m domains.network.comparison FLOWS.csv MODEL [--attacks LABELS.csv]``. The first table has the columns of
`domains.network.labelling` and ``fold``; a capture must be in one fold. The second has ``file,label`` of captures that
are attacks as a whole. Features are frozen, classifiers are fitted on all folds but one and tested on that.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domains.network.baseline import flow_statistics
from domains.network.capture.transport import TCP
from domains.network.flow import Flow
from domains.network.labelling import manifest_of
from domains.network.neighbourhood import KnownFlows
from domains.network.reading import CaptureReader
from hub.embedder import Embedder, from_pretrained
from hub.reading import Sample, Source

STRENGTH = 0.3
"""C of the logistic regression: that with which the published code's random twin was measured on this set."""
TREES = 400
NOISE = (0.0, 0.1, 0.2, 0.4)
DRAWS = 3
"""Draws of noisy labels."""
OF_A_CAPTURE = 60
"""Flows of one attack capture that count: a scan holds thousands that are alike."""
_TTL, _WINDOW = 4, 6
Features = NDArray[Any]
Embed = Callable[[Sequence[Sample]], Features]


@dataclass(frozen=True)
class Labelled:
    """Flows with labels.

    Attributes:
        samples: As they were read.
        labels: ``(flows,)``.
        folds: ``(flows,)``; empty where there are none.
        files: ``(flows,)`` name of the capture.
    """

    samples: list[Sample]
    labels: NDArray[np.str_]
    folds: NDArray[np.str_]
    files: NDArray[np.str_]

    @classmethod
    def of(cls, found: Sequence[tuple[Sample, str, str, str]]) -> Labelled:
        """Make a set of samples with label, fold and file."""
        samples, *columns = zip(*found, strict=True)
        return cls(list(samples), *(np.array(column) for column in columns))


def families(table: Path) -> Labelled:
    """Read flows that are labelled by their endpoints; ``table`` as for ``manifest_of``, with ``fold``."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "flows.csv"
        manifest_of(table, manifest, split=lambda row: row["fold"])
        with manifest.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    of_file: dict[str, dict[str, Sample]] = {row["file"]: {} for row in rows}
    for name, samples in of_file.items():
        samples.update({sample.key: sample for sample in _read(Path(name))})
    return Labelled.of([(of_file[r["file"]][r["item"]], r["label"], r["split"], r["file"]) for r in rows])


def attacks(table: Path) -> Labelled:
    """Read the first flows of captures that are labelled as a whole."""
    found = []
    with table.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            samples = list(_read(table.parent / row["file"]))[:OF_A_CAPTURE]
            found += [(sample, row["label"], "", row["file"]) for sample in samples]
    return Labelled.of(found)


def _read(path: Path) -> Iterator[Sample]:
    yield from (sample for sample in CaptureReader().read(Source.from_path(path)) if sample.error is None)


def statistics(samples: Sequence[Sample]) -> Features:
    """Return the domain's simple features of some flows."""
    return np.stack([flow_statistics(sample) for sample in samples])


def linear(seed: int = 0) -> Any:
    """Return a logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))


def forest(seed: int = 0) -> Any:
    """Return a random forest."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(TREES, class_weight="balanced_subsample", random_state=seed)


def scores(
    features: Features, data: Labelled, classifier: Callable[[int], Any], taught: NDArray[np.str_] | None = None
) -> NDArray[np.float64]:
    """Return accuracy and macro-F1 on each fold, ``(folds, 2)``.

    Args:
        features: ``(flows, features)``.
        data: Labels and folds.
        classifier: Makes one, by the fold's number.
        taught: Labels to learn from instead of the right ones.
    """
    from sklearn.metrics import accuracy_score, f1_score

    taught, found = data.labels if taught is None else taught, []
    for number, fold in enumerate(np.unique(data.folds)):
        test = data.folds == fold
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an optimiser that stops at its last step
            guess = classifier(number).fit(features[~test], taught[~test]).predict(features[test])
        truth = data.labels[test]
        macro = f1_score(truth, guess, average="macro", labels=np.unique(truth), zero_division=0)
        found.append((accuracy_score(truth, guess), macro))
    return np.array(found)


def with_noise(labels: NDArray[np.str_], rate: float, seed: int) -> NDArray[np.str_]:
    """Return labels of which a share was replaced by one of the others, drawn uniformly."""
    generator, names = np.random.default_rng(seed), np.unique(labels)
    noisy = labels.copy()
    for place in np.flatnonzero(generator.random(len(labels)) < rate):
        noisy[place] = generator.choice(names[names != labels[place]])
    return noisy


def without(sample: Sample, shortcuts: Sequence[str]) -> Sample:
    """Return a flow that tells nothing by some of ``ttl``, ``window`` and ``time``: the same in all flows."""
    flow: Flow = sample.data
    bursts = []
    for tokens in flow.burst_tokens:
        packets = tokens.reshape(-1, flow.packet_tokens).copy()
        if "ttl" in shortcuts:
            packets[:, _TTL] = 64
        if "window" in shortcuts and flow.protocol == TCP:
            packets[:, _WINDOW] = 4096
        bursts.append(packets.reshape(-1))
    changed = dataclasses.replace(flow, burst_tokens=bursts)
    if "time" in shortcuts:
        changed = dataclasses.replace(changed, iats=np.zeros_like(flow.iats), duration=0)
    return dataclasses.replace(sample, data=changed)


def nearest_kinds(features: Features, usual: Features, attack: Labelled, elsewhere: bool) -> dict[str, list[float]]:
    """Return for each kind of attack, and for usual flows (``""``), how often the nearest flow is of that kind.

    Args:
        features: Of the attacks' flows.
        usual: Of flows that are none.
        attack: The attacks.
        elsewhere: Look for an attack's nearest flow in other captures only; flows of one capture are much alike.

    Returns:
        By kind: the share whose nearest other flow is of the same kind, and of any attack.
    """
    bank = np.concatenate([features, usual])
    kinds = np.concatenate([attack.labels, np.full(len(usual), "")])
    captures = np.concatenate([attack.files, np.full(len(usual), "")])
    nearest = np.empty(len(bank), int)
    for capture in np.unique(captures):
        asked = captures == capture
        barred = asked & bool(elsewhere and capture)
        rows = np.flatnonzero(~barred)[KnownFlows(bank[~barred]).nearest(bank[asked], 2).rows]
        # A flow that was not barred is its own nearest, or one that equals it is.
        nearest[asked] = np.where(rows[:, 0] == np.flatnonzero(asked), rows[:, 1], rows[:, 0])
    same, attacked = kinds[nearest] == kinds, kinds[nearest] != ""
    return {str(k): [float(np.mean(some[kinds == k])) for some in (same, attacked)] for k in np.unique(kinds)}


def anomaly_areas(
    features: Features, usual: Features, attack: Labelled, held_out: NDArray[np.bool_]
) -> dict[str, float]:
    """Return for each kind of attack the area under the ROC of the distance to usual flows, others of them apart.

    Args:
        features: Of the attacks' flows.
        usual: Of flows that are none.
        attack: The attacks.
        held_out: Which of the usual flows to tell attacks from; the rest is the reference.
    """
    from sklearn.metrics import roc_auc_score

    known = KnownFlows(usual[~held_out])
    strange, plain = (known.nearest(some, 3).distances[:, -1] for some in (features, usual[held_out]))
    areas = {}
    for kind in np.unique(attack.labels):
        own = strange[attack.labels == kind]
        truth = np.concatenate([np.ones(len(own)), np.zeros(len(plain))])
        areas[str(kind)] = float(roc_auc_score(truth, np.concatenate([own, plain])))
    return areas


def shown(figures: NDArray[np.float64]) -> str:
    """Return accuracy ± its standard deviation over the folds / macro-F1, from ``([variants,] folds, 2)``."""
    folds = figures if figures.ndim == 2 else figures.mean(0)
    return f"{folds[:, 0].mean():.3f} ± {folds[:, 0].std():.3f} / {folds[:, 1].mean():.3f}"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("flows", type=Path)
    parser.add_argument("model")
    parser.add_argument("--attacks", type=Path)
    parser.add_argument("--twins", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["families", "noise", "shortcuts", "attacks"])
    given = parser.parse_args()
    embedder = from_pretrained(given.model)
    twins = [embedder.random_twin(seed) for seed in range(1, 1 + given.twins)]
    compare(embedder, twins, families(given.flows), given.attacks and attacks(given.attacks), given.only)


def _embedding(embedder: Embedder) -> Embed:
    return lambda samples: np.asarray(embedder.embed(list(samples)).vectors)


def compare(
    embedder: Embedder, twins: Sequence[Embedder], data: Labelled, attack: Labelled | None, parts: Sequence[str]
) -> None:
    """Print accuracy ± its standard deviation over the folds / macro-F1, and how near attacks lie to one another."""
    model, others = _embedding(embedder), [_embedding(twin) for twin in twins]
    own, simple, theirs = model(data.samples), statistics(data.samples), [twin(data.samples) for twin in others]
    if "families" in parts:
        for name, classifier in (("linear", linear), ("forest", forest)):
            print(f"{name}: model {shown(scores(own, data, classifier))}", flush=True)
            each = np.stack([scores(some, data, classifier) for some in theirs])
            print(f"  twins {shown(each)}; each {np.round(each.mean(1), 3).tolist()}", flush=True)
            gain = scores(own, data, classifier) - each.mean(0)
            print(f"  gain by fold {np.round(gain, 3).tolist()}")
            print(f"  simple {shown(scores(simple, data, classifier))}", flush=True)
    if "noise" in parts:
        for rate in NOISE:
            taught = [with_noise(data.labels, rate, seed) for seed in range(DRAWS if rate else 1)]
            for name, features, classifier in (
                ("model, linear", own, linear),
                ("twin, linear", theirs[0], linear),
                ("model, forest", own, forest),
                ("simple, forest", simple, forest),
            ):
                each = np.concatenate([scores(features, data, classifier, labels) for labels in taught])
                print(f"noise {rate}: {name} {shown(each)}", flush=True)
    if "shortcuts" in parts:
        for shortcuts in ((), ("ttl",), ("window",), ("time",), ("ttl", "window", "time")):
            samples = [without(sample, shortcuts) for sample in data.samples]
            for name, features, classifier in (
                ("model, linear", model(samples), linear),
                ("twin, linear", others[0](samples), linear),
                ("simple, forest", statistics(samples), forest),
            ):
                print(f"without {shortcuts}: {name} {shown(scores(features, data, classifier))}", flush=True)
    if "attacks" in parts and attack is not None:
        print({str(kind): int((attack.labels == kind).sum()) for kind in np.unique(attack.labels)})
        held_out = data.folds == np.unique(data.folds)[0]
        for name, embed in (("model", model), ("twin", others[0]), ("simple", statistics)):
            features, usual = embed(attack.samples), embed(data.samples)
            for elsewhere in (False, True):
                found = nearest_kinds(features, usual, attack, elsewhere)
                print(f"{name}, {elsewhere=}: nearest of the same kind, of any attack {found}")
            print(f"{name}: area under the ROC {anomaly_areas(features, usual, attack, held_out)}", flush=True)


if __name__ == "__main__":
    main()
