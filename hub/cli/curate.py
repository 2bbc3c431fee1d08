"""``fmhub curate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

GROUPS_SHOWN = 5


def curate(
    model: Annotated[str, typer.Argument(help="Built-in name, folder, or org/repo.")],
    data: Annotated[Path, typer.Option(help="Folder of native files, or a manifest (its train part is curated).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write; what is left out goes beside it.")],
    by: Annotated[str, typer.Option(help="prototype, duplicates, balanced or target.")],
    keep: Annotated[float | None, typer.Option(help="Share of the samples; by target, at most.")] = None,
    clusters: Annotated[int | None, typer.Option(help="Number of clusters; not by balanced.")] = None,
    prefer: Annotated[str | None, typer.Option(help="By prototype: hard or easy samples.")] = None,
    threshold: Annotated[float | None, typer.Option(help="By duplicates: cosine similarity of the same.")] = None,
    levels: Annotated[str | None, typer.Option(help="By balanced: clusters of each level, as 100,10.")] = None,
    diversity: Annotated[float | None, typer.Option(help="By balanced: 0 near the centroid to 1 far from it.")] = None,
    rounds: Annotated[int | None, typer.Option(help="By balanced: times the centroids are evened out.")] = None,
    target: Annotated[Path | None, typer.Option(help="By target: folder or manifest of the target set.")] = None,
    stop: Annotated[float | None, typer.Option(help="By target: share of the similarity at which to stop.")] = None,
    patience: Annotated[int | None, typer.Option(help="By target: round that --stop compares with.")] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="What fmhub embed wrote of the data, so that it is not embedded again.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="Reduction of token states to one vector.")] = None,
    layer: Annotated[str | None, typer.Option(help="Hidden state: an index, average, or all.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    batch_cost: Annotated[int | None, typer.Option(help="Largest padded cost of one forward.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of clustering and draws.")] = 0,
) -> None:
    """Choose by their embeddings, without labels, which samples to train on.

    Writes a manifest of the samples kept, for the --data of fmhub pretrain, and beside it NAME.dropped.csv: every
    sample left out, with the reason. The data itself is not touched.
    """
    from hub.cli.embed import parse_layer
    from hub.curation.curator import Curator
    from hub.curation.index import check_output, dropped_path, write_index
    from hub.curation.pool import embed_rows, find_rows, look_up_rows
    from hub.curation.vectors import read_vectors
    from hub.embedder import from_pretrained
    from hub.errors import InvalidManifest, UnsupportedOption

    given = {
        "keep": keep,
        "clusters": clusters,
        "prefer": prefer,
        "threshold": threshold,
        "levels": _numbers(levels),
        "diversity": diversity,
        "rounds": rounds,
        "stop": stop,
        "patience": patience,
    }
    curator = Curator({"by": by, **{name: value for name, value in given.items() if value is not None}})
    if (by == "target") != (target is not None):
        raise UnsupportedOption("--target names the target set of --by target: give both, or neither", param="target")
    check_output(output, data)
    embedder = from_pretrained(model, device=device)
    options: dict[str, Any] = {"pooling": pooling, "layer": parse_layer(layer), "batch_cost": batch_cost}
    embedder.model.check_options(pooling, options["layer"])
    rows, passed = find_rows(data, embedder)
    if embeddings is None:
        pool = embed_rows(_tracked(rows), embedder, **options)
    else:
        file = read_vectors(embeddings)
        width = embedder.model.embedding_dimension(pooling, options["layer"])
        if file.vectors.shape[1] != width:
            raise InvalidManifest(
                f"{embeddings} holds embeddings of {file.vectors.shape[1]} dimensions, and {model} gives {width} with "
                "these options; embed the data with this model"
            )
        pool = look_up_rows(rows, file)
    wanted = None
    if target is not None:
        wanted_pool = embed_rows(_tracked(find_rows(target, embedder)[0]), embedder, **options)
        _report(wanted_pool.unusable, "not used of the target set")
        wanted = wanted_pool.vectors
    selection = curator.explain(pool.vectors, seed, wanted)
    write_index(output, pool, selection, passed)

    _report(pool.unusable, "could not be used")
    typer.echo(f"kept {len(selection.kept)} of {len(pool.rows)} samples: {output}")
    if len(selection.dropped):
        typer.echo(f"left out {len(selection.dropped)} ({selection.reason}): {dropped_path(output)}")
    if passed:
        typer.echo(f"taken over from other splits as they are: {len(passed)} rows")
    groups = selection.groups()
    for group in groups[:GROUPS_SHOWN]:
        first, *rest = (_name(pool.rows[n]) for n in group[:4].tolist())
        more = f" and {len(group) - 4} more" if len(group) > 4 else ""
        typer.echo(f"group of {len(group)}: kept {first}, left out {', '.join(rest)}{more}")
    if len(groups) > GROUPS_SHOWN:
        typer.echo(f"and {len(groups) - GROUPS_SHOWN} smaller groups")


def _numbers(text: str | None) -> list[int] | None:
    from hub.errors import UnsupportedOption

    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UnsupportedOption(f"--levels {text!r}: numbers of clusters as 100,10", param="levels") from None


def _name(row: Any) -> str:
    span = f"@{row.span.start or 0:g}-{'' if row.span.stop is None else f'{row.span.stop:g}'}s" if row.span else ""
    return f"{row.file}{f'[{row.item}]' if row.item else ''}{span}"


def _report(unusable: Sequence[tuple[Any, str]], what: str) -> None:
    for row, reason in unusable:
        typer.echo(f"{what}: {_name(row)}: {reason}", err=True)


def _tracked(rows: Sequence[Any]) -> Any:
    """Iterate over rows with a progress bar on stderr, so that stdout stays clean."""
    from rich.console import Console
    from rich.progress import track

    return track(rows, description="embedding", console=Console(stderr=True), transient=True)
