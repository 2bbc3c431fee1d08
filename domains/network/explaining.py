"""``fmhub neighbours`` and ``fmhub anomalies``: the flows of a capture beside flows that are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from domains.network.embedded import Embedded, embed_files, embed_manifest, network_embedder
from domains.network.known import Known, load_known
from domains.network.neighbourhood import KnownFlows, votes
from hub.cli.tables import print_rows
from hub.embedder import Embedder
from hub.errors import InvalidInput, UnsupportedOption

Model = Annotated[str, typer.Option(help="A model of network flows: built-in name, folder, or org/repo.")]
Names = Annotated[bool, typer.Option("--names", help="Show addresses and ports of the flows.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object a flow instead of a table.")]


NEIGHBOURS = 5
"""Known flows that vote on a flow's label, unless said otherwise."""


def neighbours(
    captures: Annotated[list[Path], typer.Argument(help="Captures to explain.")],
    known: Annotated[
        Path | None,
        typer.Option(help="Manifest with file,label and optional item: flows that are known, if not the model's own."),
    ] = None,
    model: Model = "netfound-tiny",
    k: Annotated[int, typer.Option("-k", help="Neighbours of a flow that vote.")] = NEIGHBOURS,
    names: Names = False,
    as_json: AsJson = False,
) -> None:
    """Explain the flows of a capture by their nearest labelled flows."""
    embedder = network_embedder(model)
    bank = own_known(embedder) if known is None else embed_manifest(embedder, known)
    _show(_beside(bank, known or Path(model), embed_files(embedder, captures, names), k), as_json)


def explain(embedder: Embedder, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the flows of some captures beside the nearest flows that come with the model: ``fmhub embed --explain``.

    Raises:
        UnsupportedOption: The model comes without known flows.
        InvalidInput: A capture cannot be used.
    """
    return _beside(own_known(embedder), Path(embedder.name), embed_files(embedder, files), NEIGHBOURS)


def _beside(bank: Embedded | Known, source: Path, found: Embedded, k: int) -> list[dict[str, Any]]:
    """Return for each flow the label that most of its ``k`` nearest known flows have, and the nearest of them."""
    nearest = _known(bank, source).nearest(found.vectors, k)
    rows = []
    for number, (label, share) in enumerate(votes(nearest, bank.labels)):
        closest = nearest.rows[number, 0]
        rows.append(
            {
                **_described(found, number),
                "label": label,
                "share": round(share, 3),
                "nearest": f"{bank.labels[closest]} in {bank.files[closest]}",
                "distance": round(float(nearest.distances[number, 0]), 4),
            }
        )
    return rows


def anomalies(
    captures: Annotated[list[Path], typer.Argument(help="Captures to judge.")],
    reference: Annotated[list[Path], typer.Option(help="Captures, or folders of them, of what is usual.")],
    model: Model = "netfound-tiny",
    k: Annotated[int, typer.Option("-k", help="The distance is that to the k-th nearest flow.")] = 3,
    names: Names = False,
    as_json: AsJson = False,
) -> None:
    """Score the flows of a capture by their distance to those of reference captures, the strangest first.

    The score is the share of the reference flows that lie nearer to the rest of the reference: 1 is stranger than all.
    """
    embedder = network_embedder(model)
    suffixes = embedder.system.domain.suffixes
    files = [f for path in reference for f in (embedder.reader.find(path, suffixes) if path.is_dir() else [path])]
    bank, found = embed_files(embedder, files), embed_files(embedder, captures, names)
    usual = _known(bank, reference[0])
    scores, nearest = usual.anomaly_scores(found.vectors, k), usual.nearest(found.vectors, k)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], -nearest.distances[i, -1]))
    rows = [
        {
            **_described(found, i),
            "score": round(float(scores[i]), 3),
            "distance": round(float(nearest.distances[i, -1]), 4),
            "nearest": bank.files[nearest.rows[i, 0]],
        }
        for i in order
    ]
    _show(rows, as_json)


def own_known(embedder: Embedder) -> Known:
    """Return the known flows that come with a model.

    Raises:
        UnsupportedOption: It comes without.
    """
    known = load_known(embedder.card.folder)
    if known is None:
        raise UnsupportedOption(f"{embedder.name} comes without known flows; give --known", param="known")
    return known


def _known(bank: Embedded | Known, source: Path) -> KnownFlows:
    try:
        return KnownFlows(bank.vectors)
    except ValueError as error:
        raise InvalidInput(str(error), code="too_few_flows", source=str(source)) from None


def _described(found: Embedded, number: int) -> dict[str, Any]:
    sample = found.samples[number]
    facts = {name: sample.metadata[name] for name in ("protocol", "packets", "duration") if name in sample.metadata}
    if "duration" in facts:
        facts["duration"] = round(facts["duration"], 3)
    return {"file": found.files[number], "flow": sample.key, **facts}


def _show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    print_rows(rows)
