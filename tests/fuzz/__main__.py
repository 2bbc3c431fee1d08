"""Mutate files and read them: ``python -m tests.fuzz --files 50000 --seed 0 --jobs 1 --log FILE``."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.fuzz.children import Children
from tests.fuzz.run import load_embedders
from tests.fuzz.seeds import found, made
from tests.fuzz.trial import Corpus, Trial, try_file


def main() -> int:
    """Run from the command line; 1 where a defect was found."""
    options = _options()
    seeds = made() + (found(options.data) if options.data else [])
    corpus = Corpus(seeds, options.seed)
    if options.write:
        for number in options.only:
            seed, content, change, _ = corpus.file(number)
            path = options.write / f"{number}-{seed.name}"
            path.write_bytes(content)
            print(f"{path}: {change} of {seed.domain}/{seed.name}")
        return 0
    if options.url:
        from tests.fuzz.over_http import send_all

        return send_all(
            corpus, options.only or range(options.first, options.first + options.files), options.url, options.pid
        )
    done = _done(options.log)
    numbers = options.only or [n for n in range(options.first, options.first + options.files) if n not in done]
    trials = [t for n, t in done.items() if options.first <= n < options.first + options.files and not options.only]
    print(f"{len(seeds)} seeds, {len(trials)} files done before, {len(numbers)} to go", flush=True)
    embedders = load_embedders()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        children = Children(lambda n: try_file(n, corpus, embedders), options.jobs, options.memory << 20, Path(folder))
        with (options.log or Path(os.devnull)).open("a") as log:
            for count, trial in enumerate(children.run(numbers), 1):
                trials.append(trial)
                log.write(json.dumps(asdict(trial)) + "\n")
                if not trial.good:
                    print(_shown(trial), flush=True)
                if count % 1_000 == 0:
                    log.flush()
                    print(f"{count} files, {count / (time.monotonic() - started):.0f} a second", flush=True)
    print(f"{len(numbers)} files in {time.monotonic() - started:.0f} s")
    _summary(trials)
    return int(any(not t.good for t in trials))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=1_000, help="mutated files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other files")
    parser.add_argument("--jobs", type=int, default=1, help="children at a time")
    parser.add_argument("--memory", type=int, default=1_536, help="MiB that a child may have beyond its models")
    parser.add_argument("--data", type=Path, help="folder DOMAIN/... of real files to mutate as well")
    parser.add_argument("--log", type=Path, help="one line a file; a run goes on after those in it")
    parser.add_argument("--only", type=int, nargs="+", default=[], help="these files alone")
    parser.add_argument("--write", type=Path, help="write the files of --only into this folder, and do no more")
    parser.add_argument("--url", help="send the files to this running server instead")
    parser.add_argument("--pid", type=int, help="of that server, to look for processes left behind")
    return parser.parse_args()


def _done(log: Path | None) -> dict[int, Trial]:
    if log is None or not log.exists():
        return {}
    lines = log.read_text().splitlines()
    return {t.number: t for t in (Trial(**json.loads(line)) for line in lines if line.endswith("}"))}


def _shown(trial: Trial) -> str:
    return f"{trial.number} {trial.outcome}: {trial.detail} [{trial.seed}, {trial.model}, {trial.change}]"


def _summary(trials: Iterable[Trial]) -> None:
    trials = sorted(trials, key=lambda t: t.number)
    print("outcomes:", dict(Counter(t.outcome for t in trials).most_common()))
    print("refused with:", dict(Counter(t.detail for t in trials if t.outcome == "refused").most_common(60)))
    for domain in sorted({t.seed.partition("/")[0] for t in trials}):
        group = [t for t in trials if t.seed.partition("/")[0] == domain]
        slowest = max(group, key=lambda t: t.seconds)
        outcomes = dict(Counter(t.outcome for t in group).most_common())
        print(f"{domain}: {outcomes}, {sum(t.seconds for t in group):.0f} s, slowest {slowest.seconds} s "
              f"({slowest.number}, {slowest.seed}, {slowest.outcome})")  # fmt: skip
    for trial in trials:
        if not trial.good:
            print("DEFECT", _shown(trial))


if __name__ == "__main__":
    raise SystemExit(main())
