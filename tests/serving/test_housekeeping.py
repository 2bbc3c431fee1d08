"""Memory that was freed goes back to the system, and garbage of models that have gone is found."""

import asyncio
import gc
import sys
import weakref

import numpy as np
import psutil
import pytest
from conftest import running_engine

from serving.housekeeping import keep_house
from serving.inputs import PlainValue

MIB = 1 << 20


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def is_searched(reference):
    return any(found is reference() for found in gc.get_objects())


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's arenas")
def test_freed_memory_below_a_block_in_use_goes_back(run):
    async def main():
        async with running_engine("dummy") as engine:
            # Small enough that the C library takes them from an arena, which one block in use keeps from shrinking.
            blocks = [np.ones(60_000, np.uint8) for _ in range(2000)]
            last = np.ones(60_000, np.uint8)
            full = psutil.Process().memory_info().rss
            del blocks
            task = asyncio.create_task(keep_house(engine, 0.01))
            # The first search for garbage comes before, and this process may hold a lot.
            for _ in range(1000):
                await asyncio.sleep(0.01)
                if psutil.Process().memory_info().rss < full - 80 * MIB:
                    break
            task.cancel()
            assert psutil.Process().memory_info().rss < full - 80 * MIB
            assert last.all()

    run(main())


def test_what_stays_is_not_searched_and_a_model_that_has_gone_is_found(run):
    async def main():
        models = [{"name": name, "load": "first_use"} for name in "ab"]
        async with running_engine(*models, memory_budget_bytes=64) as engine:
            task = asyncio.create_task(keep_house(engine, 0.01))
            await engine.embed("a", [PlainValue([1.0])])
            model = engine.lane("a").embedder.model
            model.itself = [model]  # only a search finds it once it is let go
            gone = weakref.ref(model)
            del model
            for _ in range(100):
                await asyncio.sleep(0.05)
                if not is_searched(gone):
                    break
            assert not is_searched(gone), "with every collection"
            await engine.embed("b", [PlainValue([1.0])])
            assert engine.lane("a").state == "not_loaded"
            for _ in range(500):
                await asyncio.sleep(0.01)
                if gone() is None:
                    break
            task.cancel()
            assert gone() is None

    run(main())
