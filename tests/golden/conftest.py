"""Finds golden cases, gives each to the adapter of its system, and prints how far every tensor is off.

A case is a folder with ``config.json`` and safetensors. Its system is told by the name of the folder or of one above
it: ``tera``, ``tera/fbank240`` and ``tera-seed7`` all go to ``adapters/tera.py``, whose ``check(folder, compare)``
recomputes every recorded tensor.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

DEFAULT_ROOT = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
ADAPTERS = {p.stem: p for p in (Path(__file__).parent / "adapters").glob("*.py") if not p.stem.startswith("_")}
LINES = pytest.StashKey[list[str]]()


def cases(root: Path) -> list[Path]:
    return sorted(p.parent for p in root.rglob("config.json") if any(p.parent.glob("*.safetensors")))


def adapter_of(folder: Path) -> str | None:
    """Return the adapter that the deepest folder name above a case belongs to."""
    for part in reversed(folder.parts):
        name = part.replace("-", "_")
        matches = [a for a in ADAPTERS if name == a or name.startswith(f"{a}_")]
        if matches:
            return max(matches, key=len)
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--golden-root")
    root = (given or DEFAULT_ROOT).resolve()
    found = cases(root) if root.is_dir() else []
    if not found:
        reason = f"no golden cases below {given}" if given else "no golden cases beside this checkout"
        marks = pytest.mark.skip(reason=reason) if given is None else ()
        metafunc.parametrize("golden_case", [pytest.param((reason, None), marks=marks, id="none")])
        return
    parameters = []
    for folder in found:
        name = adapter_of(folder)
        marks = []
        if name is None and given is None:
            # The folder beside a checkout also holds the systems still to come; one asked for by name must be known.
            marks = [pytest.mark.skip(reason=f"no adapter for {folder.relative_to(root)}")]
        identity = "/".join((root.name, *folder.relative_to(root).parts))
        parameters.append(pytest.param((folder, name), marks=marks, id=identity))
    metafunc.parametrize("golden_case", parameters)


class Comparison:
    """Collects the largest difference of each tensor; `finish` fails on those out of tolerance."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, bool]] = []

    def __call__(
        self,
        name: str,
        actual: torch.Tensor | float,
        expected: torch.Tensor | float,
        *,
        atol: float,
        rtol: float = 0.0,
    ) -> None:
        left, right = (torch.as_tensor(v).detach().to(torch.float64) for v in (actual, expected))
        if left.shape != right.shape:
            self.rows.append((f"{name}: shape {tuple(left.shape)}, expected {tuple(right.shape)}", math.inf, False))
            return
        difference = (left - right).abs().nan_to_num(nan=math.inf)
        # A recorded infinity or NaN must be met by the same.
        same = (left == right) | (left.isnan() & right.isnan())
        difference[same] = 0.0
        good = bool((difference <= atol + rtol * right.abs().nan_to_num()).all())
        self.rows.append((name, float(difference.max()) if difference.numel() else 0.0, good))

    def finish(self) -> None:
        assert self.rows, "the adapter compared nothing"
        bad = [f"{name}: {difference:.3g}" for name, difference, good in self.rows if not good]
        assert not bad, "out of tolerance:\n" + "\n".join(bad)


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Comparison:
    comparison = Comparison()

    def report() -> None:
        lines = request.config.stash.setdefault(LINES, [])
        lines.append(request.node.name)
        lines += [f"  {d:10.3g}  {'' if good else 'OUT  '}{name}" for name, d, good in comparison.rows]

    request.addfinalizer(report)
    return comparison


def load_adapter(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_adapter_{name}", ADAPTERS[name])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def adapter() -> Callable[[str | None, Path], ModuleType]:
    def get(name: str | None, folder: Path) -> ModuleType:
        known = ", ".join(sorted(ADAPTERS))
        assert name is not None, f"no adapter knows the golden case {folder}; there are adapters for {known}"
        return load_adapter(name)

    return get


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(LINES, [])
    if lines:
        terminalreporter.section("largest difference of each golden tensor")
        for line in lines:
            terminalreporter.line(line)
