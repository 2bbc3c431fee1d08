"""Graph files of all kinds to graphs: told apart by content, read by the module of their format."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from domains.graphs.formats.arrays import is_npz, read_npz
from domains.graphs.formats.files import Members, archive_members, folder_members, open_archive
from domains.graphs.formats.lists import is_edge_header, looks_like_edges, read_edge_list, read_edges_and_nodes
from domains.graphs.formats.numbers import decode
from domains.graphs.formats.objects import parse_graph, read_graphml, read_json
from domains.graphs.formats.planetoid import planetoid_name, read_planetoid
from domains.graphs.formats.tu import EDGES, INDICATOR, prefixes, read_s2v, read_tu
from domains.graphs.limits import GraphLimits
from domains.graphs.molecules.reading import SMILES_COLUMNS, parse_smiles, read_csv, read_sdf, read_smiles
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Reader, Sample, Source, Span

READABLE = (
    "SMILES and CSV lists of molecules, SDF, TUDataset folders and ZIPs, S2V, edge lists, NumPy .npz, JSON and GraphML"
)
HEAD = 4096


@dataclass(frozen=True)
class _MoleculeLimits:
    max_nodes: int


@dataclass
class GraphReader(GraphLimits, Reader):
    """Molecules and graphs, from files or from plain values; see `GraphLimits` for what is accepted."""

    plain_form: ClassVar[str] = (
        'a SMILES string, or a graph by its edges and node features: {"edge_index": [[0, 1], [1, 2]], "x": [[1.0], '
        "[0.0], [0.0]]} (row 0 of edge_index holds sources, row 1 targets)"
    )
    reads_text: ClassVar[bool] = True

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield the graphs of a file, or of a set of files that lie together; see `Reader.read`."""
        try:
            if span is not None:
                raise InvalidInput("a graph has no time axis: a span cannot be cut out", code="no_time_axis")
            yield from self._read(source)
        except InvalidInput as error:
            raise error.at(source.name) from error.__cause__

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the graph of a SMILES string or of ``{"edge_index", "x", "edge_attr"?}``."""
        try:
            if isinstance(value, str):
                yield parse_smiles(value, self._for_molecules)
            else:
                yield parse_graph(value, self)
        except InvalidInput as error:
            raise error.at(name) from None

    def find(self, folder: Path, suffixes: Collection[str]) -> list[Path]:
        """Return what to read below a folder; of a set of several files one stands for all.

        That is ``DS_A.txt`` for a TUDataset set, ``ind.NAME.graph`` for a Planetoid one, ``edges.csv`` beside
        ``nodes.csv`` for a graph in two tables.
        """
        paths = super().find(folder, (*suffixes, ".graph"))
        sets = {(p.parent, p.name.removesuffix(EDGES)) for p in paths if p.name.endswith(EDGES)}
        with_edges = {p.parent for p in paths if p.name == "edges.csv"}

        def is_part_of_another(path: Path) -> bool:
            name = path.name
            if path.suffix == ".graph":
                return planetoid_name(path) is None
            if name == "nodes.csv":
                return path.parent in with_edges
            # DS_graph_labels.txt and the like: some beginning of the name is that of a set.
            starts = (name[:place] for place, letter in enumerate(name) if letter == "_")
            of_a_set = any((path.parent, start) in sets for start in starts) and not name.endswith(EDGES)
            return of_a_set or name.lower() == "readme.txt"

        return [path for path in paths if not is_part_of_another(path)]

    @property
    def _for_molecules(self) -> _MoleculeLimits:
        return _MoleculeLimits(min(self.max_atoms, self.max_nodes))

    def _read(self, source: Source) -> Iterator[Sample]:
        path = source.path
        if path is not None and path.is_dir():
            yield from self._read_members(folder_members(path, self), path)
            return
        if source.size == 0:
            raise InvalidInput("the file is empty", code="empty")
        if source.size > self.max_bytes:
            raise TooLarge(f"the file has {source.size:,} bytes; at most {self.max_bytes:,} are read")
        if path is not None and (of_a_set := self._set_of(path)) is not None:
            yield from of_a_set
            return
        head = source.head(HEAD)
        if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
            with source.open() as stream:
                members = archive_members(open_archive(stream, self))
                yield from self._read_members(members, None)
        elif head[:1] == b"\x80" or head.startswith((b"ccopy_reg", b"(dp", b"cnumpy", b"cscipy", b"ccollections")):
            raise UnsupportedFormat(
                "a Python pickle, which could run code when it is read; Planetoid's are read from a folder that holds "
                "all of the set's files, never from an upload: send an .npz file",
                code="pickle",
            )
        elif b"\x00" in head:
            raise UnsupportedFormat(f"neither text nor a ZIP archive; {READABLE} are read", code="not_text")
        else:
            yield from self._read_text(source, head)

    def _set_of(self, path: Path) -> Iterator[Sample] | None:
        """Return the samples of the set of files that a file stands for, if it does."""
        name = path.name
        if name.endswith(EDGES) and (path.parent / f"{name.removesuffix(EDGES)}{INDICATOR}").exists():
            prefix = name.removesuffix(EDGES)
            return read_tu(folder_members(path.parent, self, prefix), prefix, self)
        if (planetoid := planetoid_name(path)) is not None:
            return iter([read_planetoid(path.parent, planetoid, self)])
        if name == "edges.csv" and (path.parent / "nodes.csv").exists():
            return iter([read_edges_and_nodes(folder_members(path.parent, self), self)])
        return None

    def _read_members(self, members: Members, folder: Path | None) -> Iterator[Sample]:
        """Yield the graphs of a folder or archive that holds one set."""
        sets = prefixes(members)
        if len(sets) == 1:
            yield from read_tu(members, sets[0], self)
        elif is_npz(members) and folder is None:
            yield read_npz(members, self)
        elif {"edges.csv", "nodes.csv"} <= set(members):
            yield read_edges_and_nodes(members, self)
        elif folder is not None and (named := [n for f in folder.iterdir() if (n := planetoid_name(f))]):
            yield read_planetoid(folder, named[0], self)
        else:
            shown = ", ".join(sorted(members)[:6]) or "nothing"
            raise UnsupportedFormat(
                f"it holds {shown}; one set is read: DS_A.txt with DS_graph_indicator.txt (TUDataset), edges.csv with "
                f"nodes.csv{', or the arrays of an .npz file' if folder is None else ''}"
                + (f" (here are {len(sets)} sets: give one)" if len(sets) > 1 else ""),
                code="no_graph",
            )

    def _read_text(self, source: Source, head: bytes) -> Iterator[Sample]:
        text = head.decode("utf-8-sig", errors="replace")
        lines = text.splitlines()
        first = next((line.strip() for line in lines if line.strip()), "")
        if not first:
            raise InvalidInput("the file holds only empty lines", code="empty")
        if first[0] in "{[" and not _is_bracketed_smiles(first):
            yield from read_json(self._text(source), self)
        elif first.startswith("<"):
            yield read_graphml(self._text(source), self)
        elif any(line.rstrip().endswith(("V2000", "V3000")) for line in lines[:8]):
            yield from read_sdf(source, self._for_molecules)
        elif first.isdigit() and len(lines) > 1:
            yield from read_s2v(self._text(source), "the file", self)
        elif looks_like_edges(first) or is_edge_header(first):
            yield read_edge_list(self._text(source), self)
        elif _is_table(first, source.suffix):
            yield from read_csv(source, self._for_molecules)
        else:
            yield from read_smiles(source, self._for_molecules)

    def _text(self, source: Source) -> str:
        with source.open() as stream:
            return decode(stream.read(), "the file")


def _is_table(line: str, suffix: str) -> bool:
    """Tell a CSV's header from a line of SMILES: no SMILES holds a comma, but a name after one may."""
    cells = {cell.strip().lower() for cell in line.split(",")}
    return suffix == ".csv" or "," in line.split()[0] or bool(cells & set(SMILES_COLUMNS))


def _is_bracketed_smiles(line: str) -> bool:
    """Tell ``[Na+].[Cl-]`` from the beginning of a JSON list: no JSON value follows its bracket with a letter."""
    return (
        line[0] == "["
        and len(line) > 1
        and (line[1].isalpha() or line[1].isdigit())
        and "]" in line
        and (any(c.isalpha() for c in line[1 : line.index("]")]))
    )
