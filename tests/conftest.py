from __future__ import annotations

import importlib
import importlib.util
import os
import random
import sys
from pathlib import Path

import pytest

from hub.domain import Domain, domains, get_domain

_spec = importlib.util.spec_from_file_location("toy_package", Path(__file__).parent / "toy_package.py")
assert _spec and _spec.loader
toy_package = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy_package)

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-root", type=Path, default=None, help="folder of golden cases")
    parser.addoption("--data-root", type=Path, default=None, help="folder of DOMAIN/malformed/manifest.csv")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real labelled data, where there is one."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no shared data beside this checkout")
    return folder


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the toy domain as an installed package; child processes need it on PYTHONPATH."""
    return toy_package.install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def toy(toy_path: Path) -> Domain:
    """The toy domain, installed for this process."""
    sys.path.insert(0, str(toy_path))
    importlib.invalidate_caches()
    domains.cache_clear()
    return get_domain("numbers")


@pytest.fixture(scope="session")
def toy_files(toy: Domain, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Native files of the toy domain."""
    return toy.load("samples")(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="session")
def toy_checkpoint(toy: Domain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of the toy system with its card."""
    import torch

    from hub.publishing import card_metadata, save_checkpoint, write_card

    system = toy.systems["sequences"]
    folder = tmp_path_factory.mktemp("checkpoints") / "toy-random"
    torch.manual_seed(0)
    model = system.load("pretraining")(system.load("configuration")())
    save_checkpoint(folder, model, system.load("processor")())
    write_card(folder, card_metadata(system, license="apache-2.0", name="toy-random"), "# toy\n\nA toy. For tests.")
    return folder


@pytest.fixture(autouse=True)
def _same_randomness_in_any_order() -> None:
    """A test that forgets to seed must not depend on which tests ran before it."""
    # Not 0: that is what checkpoints for tests are initialised with, and fresh weights must differ from theirs.
    random.seed(7)
    for name in ("numpy", "torch"):
        if name in sys.modules:
            library = sys.modules[name]
            library.random.seed(7) if name == "numpy" else library.manual_seed(7)
