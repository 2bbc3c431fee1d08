from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from domains.network.flow import Flow
from domains.network.netfound.processing import FlowTokens, NetFoundProcessor
from hub.reading import Sample


@pytest.fixture
def a_flow() -> Callable[..., Sample]:
    """Flows of random headers: `a_flow(bursts, protocol=6, packets=2, seed=0)`."""

    def a_flow(bursts: int, protocol: int = 6, packets: int = 2, seed: int = 0) -> Sample:
        draw = np.random.default_rng(seed)
        width = {6: 18, 17: 12, 1: 13}[protocol]
        tokens = [draw.integers(0, 65_536, width * packets).astype(np.uint16) for _ in range(bursts)]
        return Sample(
            Flow(
                tokens,
                draw.random(bursts) < 0.5,
                draw.integers(40, 9000, bursts).astype(np.uint32),
                draw.integers(0, 44_000_000, bursts).astype(np.uint64),
                np.full(bursts, packets, np.uint32),
                protocol,
                duration=1,
            )
        )

    return a_flow


@pytest.fixture
def prepared(a_flow: Callable[..., Sample]) -> Callable[..., list[FlowTokens]]:
    """Such flows as the collator takes them: `prepared((bursts, protocol, packets), ...)`."""

    def prepared(*arguments: tuple[int, ...]) -> list[FlowTokens]:
        processor = NetFoundProcessor(vocabulary="fields")
        return [processor.prepare(a_flow(*one, seed=seed)) for seed, one in enumerate(arguments)]

    return prepared
