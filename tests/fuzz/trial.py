"""One mutated file through the way that a request takes, and what is to be expected of it."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from hub.embedder import Embedder
from hub.errors import InvalidInput
from hub.reading import Sample, Source
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds import PATIENT, Seed

SLOW = 10.0
"""Seconds of computing after which an answer came too late."""
MOST_PREPARED = 40
"""Samples of a file that are prepared; the others are only read."""
ON_DISK = 0.25
"""Share of the files that are read from a path, as from a spool."""
GOOD = ("refused", "accepted", "flagged", "partial")


@dataclass
class Trial:
    """What happened to one file.

    Attributes:
        number: Of the file.
        seed: Name and domain of what it was made from.
        change: What was done to that.
        model: Whose reader and processor met it.
        outcome: ``refused`` with a clear error; ``accepted``, ``flagged`` (with warnings) or ``partial`` (without some
            of its samples) with finite features. All else is a defect: ``error`` (of another kind), ``memory``,
            ``not finite``, ``slow``, ``message`` (unclear, or with what it should not tell), ``left`` (temporary files,
            open files or processes), ``crash``, ``hang``.
        detail: Code of the error, or what is wrong.
        seconds: Of computing.
    """

    number: int
    seed: str
    change: str
    model: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether it went as it should."""
        return self.outcome in GOOD


class Defect(Exception):
    """What is wrong, with the outcome under which it counts."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


class Corpus:
    """The mutated files by number."""

    def __init__(self, seeds: list[Seed], base: int) -> None:
        """Make files from ``seeds``, as many of each domain and, in it, of each format; ``base`` varies."""
        self.base = base
        self._all = seeds
        self._by_domain: dict[str, dict[str, list[Seed]]] = {}
        for seed in seeds:
            self._by_domain.setdefault(seed.domain, {}).setdefault(seed.kind, []).append(seed)

    def file(self, number: int) -> tuple[Seed, bytes, str, Random]:
        """Return what it is made from, its bytes, what was done, and the random numbers to go on with."""
        random = Random(f"{self.base}/{number}")
        domain = list(self._by_domain)[number % len(self._by_domain)]
        kinds = self._by_domain[domain]
        seed = random.choice(kinds[random.choice(sorted(kinds))])
        others = self._all if random.random() < 0.3 else [s for group in kinds.values() for s in group]
        content, change = mutated(seed, others, random)
        return seed, content, change, random


def try_file(number: int, corpus: Corpus, embedders: Mapping[str, list[Embedder]]) -> Trial:
    """Read and prepare one file; called in a process that may die of it."""
    seed, content, change, random = corpus.file(number)
    embedder = random.choice(embedders[seed.domain])
    trial = Trial(number, f"{seed.domain}/{seed.name}", change, embedder.name, "accepted")
    started = time.process_time()
    before = _leftovers()
    try:
        if seed.kind == "plain":
            _use(embedder, embedder.reader.parse(_json_of(content), "input[0]"), trial)
        elif random.random() < ON_DISK:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "upload")
                path.write_bytes(content)
                _use(embedder, embedder.read(Source.from_path(path, seed.name)), trial)
        else:
            _use(embedder, embedder.read(Source.from_bytes(content, seed.name)), trial)
    except InvalidInput as error:
        trial.outcome, trial.detail = "refused", error.code
        if problem := _fault_of(str(error)):
            trial.outcome, trial.detail = "message", f"{error.code}: {problem}"
    except Defect as defect:
        trial.outcome, trial.detail = defect.outcome, str(defect)
    except MemoryError as error:
        trial.outcome, trial.detail = "memory", _where(error)
    except Exception as error:
        trial.outcome, trial.detail = "error", f"{_where(error)}: {error}"[:400]
    trial.seconds = round(time.process_time() - started, 3)
    if trial.good and trial.seconds > SLOW:
        trial.outcome = "slow"
    if trial.good and (left := _leftovers() - before):
        # What only awaits the collector is not left behind; collecting is too dear for every file.
        gc.collect()
        if left := _leftovers() - before:
            trial.outcome, trial.detail = "left", ", ".join(sorted(left))[:400]
    return trial


def _json_of(content: bytes) -> Any:
    """Return what a request's body holds; the service refuses the same bodies."""

    def refuse(name: str) -> Any:
        raise InvalidInput(f"{name} is no JSON number", code="not_json")

    try:
        return json.loads(content, parse_constant=refuse)
    except InvalidInput:
        raise
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not JSON", code="not_json") from None


def _use(embedder: Embedder, samples: Iterator[Sample], trial: Trial) -> None:
    used, refused, flagged = 0, 0, False
    last: InvalidInput | None = None
    for count, sample in enumerate(samples):
        told = [*sample.warnings, sample.key, json.dumps(dict(sample.metadata), allow_nan=False)]
        for text in told:
            # A key is the file's own: a flow's id, a molecule's name.
            if problem := _fault_of(text, free=True):
                raise Defect("message", f"a warning, key or fact: {problem}")
        flagged = flagged or bool(sample.warnings)
        if count >= MOST_PREPARED:
            continue
        try:
            prepared = embedder.prepare(sample, "upload")
        except InvalidInput as error:
            refused, last = refused + 1, error
            if problem := _fault_of(str(error)):
                raise Defect("message", f"{error.code}: {problem}") from None
            continue
        if prepared.cost < 1:
            raise Defect("error", f"a cost of {prepared.cost}")
        if not _finite(prepared.features):
            raise Defect("not finite", f"features of {type(prepared.features).__name__}")
        used += 1
    if not used:
        raise last or Defect("error", "no sample at all")
    trial.outcome = "partial" if refused else "flagged" if flagged else "accepted"


_PATHS = re.compile(r"/(tmp|work|home|usr|vsimem|proc)/|Traceback|site-packages|0x[0-9a-f]{8,}")


def _fault_of(text: str, free: bool = False) -> str:
    """Return what a text that goes to a client should not hold, or nothing."""
    if PATIENT in text:
        return "names the patient"
    if not free and (found := _PATHS.search(text)):
        return f"tells of this machine: {found[0]}"
    if not free and not 10 < len(text) < 3_000:
        return f"is {len(text)} characters long"
    return "holds a NUL" if not free and "\0" in text else ""


def _finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return (not value.is_floating_point() and not value.is_complex()) or bool(torch.isfinite(value).all())
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    if isinstance(value, float):
        return bool(np.isfinite(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(_finite(getattr(value, f.name)) for f in dataclasses.fields(value))
    return True


def _leftovers() -> set[str]:
    """Return temporary files, open files, and child processes."""
    found = {f"temporary {path.name}" for path in Path(tempfile.gettempdir()).iterdir()}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"open {link.name} {link.readlink()}")
        except OSError:  # that of the listing itself
            continue
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return found | {f"process {number}" for number in children.split()}


def _where(error: BaseException) -> str:
    """Return an error's kind and the last place of the readers' own code that it passed."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/domains/" in name or "/hub/" in name:
            place = f"{'/'.join(Path(name).parts[-3:])}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place or 'no place of ours'}"
