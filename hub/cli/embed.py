"""``fmhub embed``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

FORMATS = ("npy", "parquet", "jsonl")


def embed(
    model: Annotated[str, typer.Argument(help="Built-in name, folder, or org/repo.")],
    inputs: Annotated[list[Path], typer.Argument(help="Files, or folders to walk.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; its suffix chooses npy, parquet or jsonl.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="Reduction of token states to one vector.")] = None,
    layer: Annotated[str | None, typer.Option(help="Hidden state: an index, average, or all.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    batch_cost: Annotated[int | None, typer.Option(help="Largest padded cost of one forward.")] = None,
    sanity: Annotated[
        str | None,
        typer.Option(
            help="flags: what speaks against each input; neighbourhood: also how unlike the training data "
            "it is; stability: also how its embedding holds under changes."
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Print each sample beside the nearest known ones of the model."),
    ] = False,
) -> None:
    """Embed files or whole folders to npy, parquet or jsonl, or explain them by their neighbours.

    A file that cannot be used is reported at the end and does not stop the rest; the exit code is then 1.
    With npy the rows are named in a second file, OUTPUT.items.csv.
    """
    from hub.embedder import from_pretrained
    from hub.errors import UnsupportedOption
    from hub.neighbourhood import VIEWS, find_neighbourhood, judge_all

    if output is None and not explain:
        raise UnsupportedOption("give --output FILE, or --explain", param="output")
    kind = output.suffix.lstrip(".").lower() if output is not None else ""
    if output is not None and kind not in FORMATS:
        raise UnsupportedOption(f"--output {output}: the suffix must be one of {', '.join(FORMATS)}", param="output")
    if pooling == "none":
        raise UnsupportedOption(
            "token states do not fit one table; use hub.from_pretrained(...).embed()", param="pooling"
        )
    if sanity not in (None, "flags", "neighbourhood", "stability"):
        raise UnsupportedOption(f"--sanity {sanity}: choose flags, neighbourhood or stability", param="sanity")
    views = VIEWS if sanity == "stability" else 0
    embedder = from_pretrained(model, device=device)
    if sanity in ("neighbourhood", "stability"):
        find_neighbourhood(embedder)  # before hours of embedding
    files: list[Any] = []
    for path in inputs:
        found = embedder.reader.find(path, embedder.system.domain.suffixes) if path.is_dir() else [path]
        if not found:
            suffixes = " ".join(embedder.system.domain.suffixes)
            raise UnsupportedOption(f"{path} holds no file that {model} reads ({suffixes})", param="inputs")
        files += found
    if explain:
        _explain(embedder, files)
    if output is None:
        return
    with _progress(len(files)) as advance:
        result = embedder.embed(
            files,
            pooling=pooling,
            layer=parse_layer(layer),
            batch_cost=batch_cost,
            on_error="collect",
            on_input=lambda name: advance(),
        )
    if len(result):
        judged = sanity in ("neighbourhood", "stability")
        nearness = judge_all(embedder, files, views=views, errors=[]) if judged else None
        _write(result, output, kind, _sanity(result, nearness) if sanity else [])
        typer.echo(f"{len(result)} embeddings of {result.vectors[0].shape[-1]} dimensions in {output}", err=True)
    warned = [(item[0], text) for item, texts in zip(result.items, result.warnings, strict=True) for text in texts]
    for source, text in warned:
        typer.echo(f"warning: {source}: {text}", err=True)
    for error in result.errors:
        typer.echo(f"failed: {error}", err=True)
    if result.errors:
        typer.echo(f"could not be used: {len(result.errors)}, embedded: {len(result)}", err=True)
        raise typer.Exit(1)


def _explain(embedder: Any, files: list[Path]) -> None:
    from hub.cli.tables import print_rows
    from hub.errors import UnsupportedOption

    domain = embedder.system.domain
    if "explain" not in domain.references:
        raise UnsupportedOption(f"{domain.title}: this domain has no known samples to explain by", param="explain")
    print_rows(domain.load("explain")(embedder, files))


def parse_layer(text: str | None) -> int | str | None:
    """Return ``--layer`` as a number where it is one."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


class _progress:  # used like a function
    """A progress bar on stderr, so that stdout stays clean."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task("embedding", total=total)

    def __enter__(self) -> Any:
        self.bar.start()
        return lambda: self.bar.advance(self.task)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def _sanity(result: Any, nearness: list[dict[str, float]] | None) -> list[dict[str, Any]]:
    """Return for each sample the columns that ``--sanity`` adds."""
    rows = [
        {"flags": list(flags), "facts": dict(facts)} for flags, facts in zip(result.flags, result.facts, strict=True)
    ]
    if nearness is None:
        return rows
    return [{**row, "neighbourhood": near} for row, near in zip(rows, nearness, strict=True)]


def _rows(result: Any, sanity: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row, ((source, key), vector, warnings) in enumerate(
        zip(result.items, result.vectors, result.warnings, strict=True)
    ):
        more = sanity[row] if sanity else {}
        yield {"source": source, "key": key, "embedding": vector.tolist(), "warnings": list(warnings), **more}


def _as_text(sanity: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the columns as text: codes side by side, all else as JSON."""
    names = list(sanity[0]) if sanity else []
    return {
        name: [" ".join(row[name]) if name == "flags" else json.dumps(row[name]) for row in sanity] for name in names
    }


def _write(result: Any, output: Path, kind: str, sanity: list[dict[str, Any]]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    if kind == "npy":
        import csv

        import numpy as np

        np.save(output, result.vectors)
        with output.with_suffix(".npy.items.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            columns = _as_text(sanity)
            writer.writerow(["source", "key", *columns])
            writer.writerows((*item, *more) for item, *more in zip(result.items, *columns.values(), strict=True))
    elif kind == "jsonl":
        with output.open("w", encoding="utf-8") as stream:
            for row in _rows(result, sanity):
                stream.write(json.dumps(row) + "\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        width = result.vectors.shape[1]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(result.vectors.reshape(-1)), width)
        table = {
            "source": pa.array([s for s, _ in result.items]),
            "key": pa.array([k for _, k in result.items]),
            "embedding": vectors,
            "warnings": pa.array([list(w) for w in result.warnings], pa.list_(pa.string())),
            **{name: pa.array(texts) for name, texts in _as_text(sanity).items()},
        }
        pq.write_table(pa.table(table), output)
