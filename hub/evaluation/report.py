"""The folder that an evaluation leaves for people: ``report.md``, ``report.json``, ``map.png``, ``confusion.png``.

It names the set's manifests and nothing else of the user's data: no folder, no file's content.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.evaluation.plots import draw_confusion, draw_map
from hub.evaluation.summary import GAIN

PACKAGES = ("fmhub", "torch", "transformers", "scikit-learn", "numpy")

TITLES = {"model": "model", "random_twin": "random twin", "baseline": "baseline", GAIN: "gain over twin"}

FIGURES = {
    "rankme": "RankMe (effective rank)",
    "uniformity": "uniformity (lower is more even)",
    "label_alignment": "alignment of rows of one label (lower is closer)",
    "unit_std": "spread of directions (1 even, 0 collapsed)",
    "std_min": "standard deviation, least of the dimensions",
    "std_median": "standard deviation, median",
    "std_max": "standard deviation, largest",
    "dead_dimensions": "dead dimensions",
}

COUNTS = ("dead_dimensions", "queries")


@dataclass(frozen=True)
class Evaluation:
    """What a report is made from.

    Attributes:
        summary: As `hub.evaluation.evaluate.evaluate` returns it.
        features: Contender to ``(rows, dimension)``, for the map.
        labels: ``(rows,)``.
        classes: Labels of the confusion matrix.
        confusion: ``(classes, classes)`` counts of the model: truth down, prediction across.
    """

    summary: Mapping[str, Any]
    features: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.str_]
    classes: Sequence[str]
    confusion: NDArray[np.int64]


def write_report(folder: Path, evaluation: Evaluation) -> None:
    """Write the report's four files; earlier ones of the same names are replaced.

    Args:
        folder: Where to; made if absent.
        evaluation: What was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = evaluation.summary
    data = {
        **summary,
        "confusion": {"labels": list(evaluation.classes), "counts": evaluation.confusion.tolist()},
        "command": command_of(summary),
        "versions": _versions(),
    }
    (folder / "report.json").write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(report_text(data), encoding="utf-8")
    title = f"{summary['model']} on {', '.join(dict.fromkeys(summary['manifests']))}"
    draw_map(folder / "map.png", evaluation.features, evaluation.labels, title)
    draw_confusion(folder / "confusion.png", evaluation.classes, evaluation.confusion, f"{title}, {summary['probe']}")


def command_of(summary: Mapping[str, Any]) -> str:
    """Return the command that measures this again, run beside the manifests."""
    words = ["fmhub", "evaluate", summary["model"]]
    for manifest in summary["manifests"]:
        words += ["--manifest", manifest]
    options = {"probe": summary["probe"], "shots": summary["shots"], "seed": summary["seed"], **summary["settings"]}
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name}", str(value)]
    return shlex.join([*words, "--report", "DIR"])


def report_text(data: Mapping[str, Any]) -> str:
    """Return ``report.md`` for the content of ``report.json``."""
    manifests = ", ".join(f"`{name}`" for name in dict.fromkeys(data["manifests"]))
    shots = f", {data['shots']} rows of each class fitted" if data["shots"] else ""
    groups = f" in {data['groups']} groups" if data["groups"] else ""
    level = f"{data['interval']['level']:.0%}"
    sections = [
        f"# {data['model']} on {manifests}",
        _verdict(data),
        f"{data['rows']} rows{groups}, {data['classes']} classes, {_count(data['folds'], 'fold')}{shots}. "
        f"Probe: {_probe(data)}, on frozen embeddings standardised on the rows fitted.",
        "## Probe",
        _probe_table(data),
        ("Mean ± standard deviation over the folds, and i" if data["folds"] > 1 else "I")
        + f"n brackets the {level} interval ({data['interval']['method']}).",
        _twin_note(data["settings"]["twins"]),
        *data["notes"],
        _strengths(data.get("chosen_c", {})),
        "## Map",
        "![map of the embeddings](map.png)",
        "## Retrieval",
        _figures_table(data["retrieval"], {n: n.replace("_at_", "@").replace("map", "mAP") for n in _retrieved(data)}),
        "Every row asks for rows of its label by cosine of the standardised embeddings, among all rows but itself"
        + (" and those of its own group." if data["groups"] else "."),
        "## Classes",
        _class_table(data["per_class"]),
        "Over all folds: how many rows of a class were found (recall), and how many rows given to it belong there "
        "(precision).",
        "![confusions of the model](confusion.png)",
        "## Without labels",
        _figures_table(data["label_free"], FIGURES),
        "Of the embeddings as they are. They compare runs of one method on one set of inputs, and show a collapse; "
        "they do not compare different architectures. Alignment alone looks at labels.",
        "## How it was made",
        f"```\n{data['command']}\n```",
        ", ".join(f"{name} {number}" for name, number in data["versions"].items())
        + ". All numbers with every fold's values: `report.json`.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(data: Mapping[str, Any]) -> str:
    gain = data["results"].get(GAIN, {}).get("balanced_accuracy")
    own = data["results"]["model"]["balanced_accuracy"]
    text = f"**Balanced accuracy {_number(own['mean'])}**"
    if gain is None or gain["mean"] is None:
        return f"{text}."
    text += f", {gain['mean']:+.3f} above its random twin"
    if not gain["interval"]:
        return f"{text}."
    low, high = gain["interval"]
    told = "which is more than chance" if low > 0 else "which is worse than no training" if high < 0 else None
    ends = f"{data['interval']['level']:.0%} interval {low:+.3f} to {high:+.3f}"
    return f"{text} ({ends}), {told or 'which cannot be told from no gain'}."


def _probe(data: Mapping[str, Any]) -> str:
    settings = data["settings"]
    if data["probe"] == "linear":
        return "logistic regression, " + ("C chosen on held-out train rows" if settings["sweep"] else "C = 1")
    if data["probe"] == "knn":
        k = settings["neighbours"] or "5 or the rows of the rarest class"
        return f"k nearest neighbours (k = {k}) by cosine, weighted by exp(similarity / {settings['temperature']:g})"
    return "Gaussian naive Bayes"


def _twin_note(twins: int) -> str:
    if not twins:
        return ""
    drawn = f"the mean of {twins} initialisations" if twins > 1 else "one initialisation"
    return (
        f"The random twin is the same architecture without training, {drawn}; the gain is the difference of model and "
        "twin on the same test rows."
    )


def _strengths(chosen: Mapping[str, Sequence[float]]) -> str:
    listed = (f"{TITLES[name]} {', '.join(f'{c:g}' for c in values)}" for name, values in chosen.items())
    return f"C chosen, fit by fit: {'; '.join(listed)}." if chosen else ""


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" + ("s" if number != 1 else "")


def _probe_table(data: Mapping[str, Any]) -> str:
    def cell(line: Mapping[str, Any]) -> str:
        if line["mean"] is None:
            return "-"
        spread = f" ± {line['spread']:.3f}" if data["folds"] > 1 else ""
        ends = f" [{line['interval'][0]:.3f}, {line['interval'][1]:.3f}]" if line["interval"] else ""
        return f"{line['mean']:.3f}{spread}{ends}"

    results = data["results"]
    rows = [
        [metric.replace("_", " ").replace("auc", "AUC"), *(cell(results[name][metric]) for name in results)]
        for metric in results["model"]
    ]
    return _table(["", *(TITLES[name] for name in results)], rows)


def _figures_table(figures: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    rows = []
    for key, title in titles.items():
        values = [figures[name][key] for name in figures]
        rows.append([title, *(f"{v:g}" if key in COUNTS else _number(v) for v in values)])
    return _table(["", *(TITLES[name] for name in figures)], rows)


def _retrieved(data: Mapping[str, Any]) -> Iterable[str]:
    return data["retrieval"]["model"]


def _class_table(classes: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(next(iter(classes.values()))["recall"])
    header = ["class", "tests", *(f"recall, {TITLES[n]}" for n in names), "precision, model"]
    rows = [
        [
            label,
            str(entry["rows"]),
            *(_number(entry["recall"][n]) for n in names),
            _number(entry["precision"]["model"]),
        ]
        for label, entry in classes.items()
    ]
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # a checkout that is on the path without being installed
    return found
