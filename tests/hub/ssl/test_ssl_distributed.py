"""Two gloo processes give the value and the gradient of one process at the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import hub
from hub.ssl.distributed import all_reduce_max, all_reduce_sum, gather_rows, mean_share, world_size

WORKER = Path(__file__).parent / "two_process_worker.py"
EXTRA = ("multiple_gradient_weights", "revive_dead_codes", "single sample")

Report = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    """Differences found by each of the two processes: one spawn for all objectives."""
    folder = tmp_path_factory.mktemp("gloo")
    root = Path(hub.__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    files = [folder / f"report{rank}.json" for rank in (0, 1)]
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(folder / "rendezvous"), str(files[rank])],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        errors = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def test_two_processes_equal_one(objective: Any, reports: list[Report]) -> None:
    for report in reports:
        apart = report[objective.name]
        assert {"loss", "gradient of the shared parameter"} <= apart.keys()
        assert max(apart.values()) < 1e-8, apart  # both ran in float64


@pytest.mark.parametrize("name", EXTRA)
def test_two_processes_agree_on(name: str, reports: list[Report]) -> None:
    for report in reports:
        assert max(report[name].values()) < 1e-5, report[name]


def test_without_a_process_group_collectives_are_the_identity(generator: torch.Generator) -> None:
    x = torch.randn(4, 3, generator=generator)
    assert world_size() == 1
    assert gather_rows(x).values is x and gather_rows(x).offset == 0
    assert all_reduce_sum(x) is x
    assert torch.equal(all_reduce_max(x), x)


def test_mean_share_weighs_elements(generator: torch.Generator) -> None:
    x = torch.randn(4, 3, generator=generator)
    torch.testing.assert_close(mean_share(x), x.mean())
    mask = torch.tensor([[True], [False], [True], [False]])
    x[1] = float("inf")  # not selected, so not looked at
    torch.testing.assert_close(mean_share(x, mask), x[[0, 2]].mean())
    with pytest.raises(ValueError, match="no process selects"):
        mean_share(x, torch.zeros(4, 1))
    with pytest.raises(ValueError, match="no process selects"):
        mean_share(x[:0])
