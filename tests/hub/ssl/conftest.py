from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    """Load a helper beside this file, whatever import mode pytest runs in."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


CASES = _load("objective_cases").CASES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each objective that it asks for, by the name of its argument."""
    groups = {
        "objective": CASES,
        "smooth_objective": [case for case in CASES if case.gradient == "derivative"],
        "stopped_objective": [case for case in CASES if case.gradient == "stopped"],
    }
    for name in groups.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(name, groups[name], ids=[case.name for case in groups[name]])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
