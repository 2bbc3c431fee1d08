"""The index of training data: every sample of a folder, a manifest, shards or a dataset repository, with its cost."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from hub.domain import Domain
from hub.errors import InvalidInput, InvalidManifest
from hub.manifest import read_manifest
from hub.reading import Reader, Sample, Source, Span, has_suffix
from hub.training.collation import Collator
from hub.training.shards import SUFFIXES, Member, ShardReader, is_shard, members

_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class Entry:
    """One sample of the training data: where it is, and what it costs.

    Attributes:
        file: Its native file, or the shard that holds it.
        number: Which sample of the file, in reading order.
        cost: As the collator counts it.
        start: Seconds, where only a part of a recording is meant.
        stop: Seconds.
        place: Where in the shard its native file lies.
        name: Of that native file.
        block: Which part of the shard is read at once.
    """

    file: str
    number: int
    cost: int
    start: float | None = None
    stop: float | None = None
    place: str = ""
    name: str = ""
    block: int | None = None

    @property
    def span(self) -> Span | None:
        """The part of the recording, if not all of it."""
        return None if self.start is None and self.stop is None else Span(self.start, self.stop)

    @property
    def label(self) -> str:
        """What messages call the sample's file."""
        return f"{self.file}[{self.name}]" if self.place else self.file


@dataclass(frozen=True)
class _Wanted:
    file: Path
    span: Span | None = None
    items: frozenset[str] = frozenset()
    member: Member | None = None


def index_data(
    data: str | Path,
    domain: Domain,
    reader: Reader,
    collator: Collator,
    on_error: Callable[[InvalidInput], None],
    on_file: Callable[[], None] | None = None,
    column: str = "",
) -> list[Entry]:
    """Read every file once and note its samples and their costs.

    Args:
        data: A folder of native files or shards, one of them, a manifest (of a split set the train part is taken), or
            ``org/name`` of a dataset repository on the Hugging Face Hub, which is fetched to its cache. A ``.csv`` file
            is always a manifest.
        domain: Whose files to look for in a folder or shard.
        reader: Reads them.
        collator: Says what a sample costs.
        on_error: Called with each file that cannot be read; the rest goes on.
        on_file: Called after each file; for progress.
        column: Of Parquet shards; see `hub.training.shards.members`.

    Raises:
        InvalidManifest: There is nothing to train on.
    """
    wanted, errors = _wanted(data, domain, reader, column)
    for error in errors:
        on_error(error)
    shards = ShardReader(reader, column)

    def index(one: _Wanted) -> tuple[list[Entry], list[InvalidInput]]:
        start, stop = (one.span.start, one.span.stop) if one.span else (None, None)
        where = (one.member.place, one.member.name, one.member.block) if one.member else ("", "", None)
        label = f"{one.file}[{one.member.name}]" if one.member else str(one.file)
        found: list[Entry] = []
        errors: list[InvalidInput] = []
        try:
            for number, sample in enumerate(_samples(one, reader, shards)):
                if one.items and sample.key not in one.items:
                    continue
                try:
                    cost = collator.cost(sample.checked(label))
                except InvalidInput as error:
                    errors.append(error.at(label))
                    continue
                if cost > 0:
                    found.append(Entry(str(one.file), number, cost, start, stop, *where))
        except InvalidInput as error:
            errors.append(error.at(label))
        return found, errors

    entries: list[Entry] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for found, errors in pool.map(index, wanted):
            entries += found
            for error in errors:
                on_error(error)
            if on_file is not None:
                on_file()
    if not entries:
        raise InvalidManifest(
            f"{data} holds nothing to train on: of {len(wanted)} files with the suffixes "
            f"{', '.join(domain.suffixes)} none gave a sample that can be read and is long enough"
        )
    return entries


def _samples(one: _Wanted, reader: Reader, shards: ShardReader) -> Iterator[Sample]:
    if one.member is not None:
        return shards.samples(one.file, one.member.place, one.member.name)
    return reader.read(Source.from_path(one.file), one.span)


def _wanted(data: str | Path, domain: Domain, reader: Reader, column: str) -> tuple[list[_Wanted], list[InvalidInput]]:
    """Return what there is to read; of a split set, the train part; and the shards that cannot be opened."""
    path = Path(data)
    if not path.exists() and _REPOSITORY.match(str(data)):
        path = _fetched(str(data), domain)
    if path.is_file() and has_suffix(path.name, domain.suffixes) and path.suffix.lower() != ".csv":
        return [_Wanted(path)], []
    if path.is_file() and not is_shard(path):
        rows = read_manifest(path)
        if any(r.split for r in rows):
            rows = [r for r in rows if r.split == "train"]
        # A file that many rows name is read once.
        items: dict[tuple[Path, Span | None], set[str]] = {}
        for row in rows:
            items.setdefault((row.file, row.span), set()).add(row.item)
        return [_Wanted(*key, frozenset(() if "" in some else some)) for key, some in items.items()], []
    if not path.exists():
        raise InvalidManifest(f"{data}: no such folder or file, and not the name of a dataset repository (org/name)")
    found, shards = [], [path]
    if path.is_dir():
        found = [_Wanted(f) for f in reader.find(path, domain.suffixes)]
        shards = sorted(f for f in path.rglob("*") if is_shard(f) and f.is_file())
        # A dataset repository holds its splits side by side: data/train-00000-of-00002.parquet, data/test-...
        shards = [f for f in shards if "train" in f.name] or shards
    errors = []
    for shard in shards:
        try:
            found += [_Wanted(shard, member=member) for member in members(shard, domain.suffixes, column)]
        except InvalidInput as error:
            errors.append(error.at(str(shard)))
    return found, errors


def _fetched(repository: str, domain: Domain) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = [f"*{suffix}" for suffix in (*SUFFIXES, *domain.suffixes)]
    try:
        # The user names the repository, and may want its newest state; data only, nothing of it is run.
        found = snapshot_download(repository, repo_type="dataset", allow_patterns=patterns)  # nosec B615
        return Path(found)
    except RepositoryNotFoundError:
        raise InvalidManifest(
            f"{repository}: no such folder or file, and no dataset repository of this name that you may read"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InvalidManifest(f"the dataset repository {repository} could not be fetched: {error}") from None


def save_index(entries: Sequence[Entry], path: Path) -> None:
    """Write an index, so that a resumed run sees the same samples in the same order."""
    defaults = {f.name: f.default for f in fields(Entry)}
    rows = [{k: v for k, v in asdict(e).items() if v != defaults[k]} for e in entries]
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(rows), encoding="utf-8")
    temporary.replace(path)


def load_index(path: Path) -> list[Entry]:
    """Read what `save_index` wrote."""
    return [Entry(**e) for e in json.loads(path.read_text(encoding="utf-8"))]
