"""What a process that does nothing but serve does for itself: free memory goes back, and what stays is not searched.

Python's search for garbage looks at every object there is. With the libraries of several domains these are a million,
and every few hundred requests all requests would stand still for a third of a second.
"""

from __future__ import annotations

import asyncio
import gc

from serving.allocator import give_back
from serving.engine import Engine

PERIOD_SECONDS = 2.0


def leave_out(some_gone: bool) -> None:
    """Find the garbage there is, and leave all that remains out of later searches.

    Args:
        some_gone: Look also at what was left out before: models have been unloaded since.
    """
    if some_gone:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


async def keep_house(engine: Engine, period: float = PERIOD_SECONDS) -> None:
    """Give free memory back again and again, and look for garbage when models have come or gone, until cancelled.

    Args:
        engine: Of the service; there is one in the process.
        period: Seconds between two times.
    """
    known: set[float] = set()
    while True:
        await asyncio.sleep(period)
        # By when they were loaded, one after another: a model may go on under another id.
        there = {lane.loaded_at for lane in engine.lanes.values() if lane.embedder is not None}
        if there != known:
            await asyncio.to_thread(leave_out, bool(known - there))
            known = there
        await asyncio.to_thread(give_back)
