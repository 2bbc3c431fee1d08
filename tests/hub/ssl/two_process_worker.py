"""Runs every objective on one process and on two, and writes down how far they are apart.

Started twice by `test_ssl_distributed.py`: `two_process_worker.py RANK RENDEZVOUS_FILE REPORT`. The global batch of 8
is cut 5 + 3: processes need not hold equally many samples.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from objective_cases import CASES, D, N
from torch import Tensor

from hub import ssl
from hub.ssl.distributed import world_size

SHARDS = (torch.arange(0, 5), torch.arange(5, N))


def step(case: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss, state, and gradients of a shared parameter and of the inputs."""
    # A parameter that every process shares, as the encoder's are: trained inputs pass through it.
    weight = torch.linspace(-1, 1, D * D, dtype=torch.float64).reshape(D, D).requires_grad_()
    leaves = {name: inputs[name].clone().requires_grad_() for name in case.trained}
    mixed = {
        name: value @ (torch.eye(D, dtype=torch.float64) + 0.1 * weight) if value.shape[-1] == D else value
        for name, value in leaves.items()
    }
    loss, state = case.run(inputs | mixed)
    loss.backward()
    result = {f"state {name}": value.double() for name, value in state.items()}
    result["loss"] = loss.detach()
    result["gradient of the shared parameter"] = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return result | {f"gradient of {name}": leaf.grad for name, leaf in leaves.items()}


def difference(case: Any, rank: int) -> dict[str, float]:
    inputs = case.inputs(seed=3)
    local = step(case, case.take(inputs, SHARDS[rank]))
    shares = dict(WHOLE[case.name])
    apart = {}
    for name, value in local.items():
        expected = shares[name]
        if name == "loss" or name == "gradient of the shared parameter":
            # What DistributedDataParallel does: average over the processes.
            value = value.clone()
            dist.all_reduce(value)
            value = value / world_size()
        elif name.startswith("gradient of "):
            key = name.removeprefix("gradient of ")
            if key in case.axes or case.select is not None:
                expected = case.take(inputs | {key: expected}, SHARDS[rank])[key]
                value = value / world_size()
            else:  # an input that is the same everywhere is a shared parameter as well
                value = value.clone()
                dist.all_reduce(value)
                value = value / world_size()
        apart[name] = float((value - expected).abs().max()) if value.numel() else 0.0
    return apart


def revive(inputs: Tensor) -> ssl.Codebook:
    """A codebook started from data."""
    book = ssl.Codebook(5, D, generator=torch.Generator().manual_seed(1), update="ema").double()
    book.revive_dead_codes(inputs, threshold=float("inf"), generator=torch.Generator().manual_seed(2))
    return book


def pareto(inputs: Tensor) -> list[float]:
    weight = torch.eye(D, dtype=torch.float64).requires_grad_()
    z = inputs @ weight
    losses = {"spread": ssl.koleo(z), "variance": ssl.variance_hinge(z), "covariance": ssl.covariance_penalty(z)}
    return list(ssl.multiple_gradient_weights(losses, [weight]).values())


if __name__ == "__main__":
    rank, rendezvous, report = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    # No process group yet: the single-process values.
    WHOLE = {case.name: step(case, case.inputs(seed=3)) for case in CASES}
    batch = torch.randn(N, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    whole_pareto, whole_book = pareto(batch), revive(batch)

    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    try:
        found = {case.name: difference(case, rank) for case in CASES}
        shard = batch[SHARDS[rank]]
        apart = max(abs(a - b) for a, b in zip(pareto(shard), whole_pareto, strict=True))
        found["multiple_gradient_weights"] = {"weights": apart}
        apart = float((revive(shard).weight - whole_book.weight).abs().max())
        found["revive_dead_codes"] = {"codes": apart}
        # One sample on one process, none on the other: nothing to contrast, and both must say so.
        alone = batch[: 1 - rank]
        try:
            ssl.nt_xent(alone, alone)
            found["single sample"] = {"raised": 1.0}
        except ValueError:
            found["single sample"] = {"raised": 0.0}
    finally:
        dist.destroy_process_group()
    report.write_text(json.dumps(found), encoding="utf-8")
