"""Results of inputs that were embedded before, bounded in bytes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from serving.inputs import Input
from serving.jobs import Job, Output, Refused
from serving.metrics import Metrics
from serving.provenance import Provenance

ENTRY_BYTES = 400
"""About what an output takes beside its numbers: objects, key, dictionary slot."""


class ResultCache:
    """The outputs of whole inputs by a hash of their content and of everything that decides about the vectors.

    Used on the event loop alone. The least recently used entry goes first.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        """Start empty.

        Args:
            max_bytes: Of all entries together; 0 keeps nothing.
            metrics: Where to count.
        """
        self.max_bytes = max_bytes
        self.bytes = 0
        self._metrics = metrics
        self._entries: OrderedDict[bytes, tuple[tuple[Output | Refused, ...], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def fill(
        self, job: Job, inputs: Sequence[Input], provenance: Provenance | None, threads: Executor, kept_as: bytes = b""
    ) -> dict[int, bytes | None]:
        """Give a request the outputs of those of its inputs that are here.

        Args:
            job: The request.
            inputs: Of the request.
            provenance: Of the model that it asks.
            threads: To hash the contents in.
            kept_as: What the outputs hold beside vectors.

        Returns:
            The other inputs by index, each with the key to keep its outputs under.
        """
        if not self.max_bytes or job.work.task is not None or provenance is None:
            return dict.fromkeys(range(len(inputs)))
        loop = asyncio.get_running_loop()
        hashes = await loop.run_in_executor(threads, lambda: [item.fingerprint() for item in inputs])
        space = kept_as + provenance.space(job.work).encode()
        missing: dict[int, bytes | None] = {}
        for index, content in enumerate(hashes):
            key = None if content is None else space + content
            found = self.get(key)
            if found is None:
                missing[index] = key
            else:
                job.fill(index, found)
        return missing

    def get(self, key: bytes | None) -> tuple[Output | Refused, ...] | None:
        """Return an input's outputs, if they are here; ``None`` is the key of what cannot be kept."""
        found = self._entries.get(key) if key is not None else None
        self._metrics.cache.labels("miss" if found is None else "hit").inc()
        if found is None or key is None:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def put(self, key: bytes | None, outputs: Sequence[Output | Refused]) -> None:
        """Keep an input's outputs, unless they are larger than all that may be kept."""
        size = sum(_size(output) for output in outputs)
        if key is None or key in self._entries or size > self.max_bytes:
            return
        self._entries[key] = (tuple(outputs), size)
        self.bytes += size
        self.shrink(self.max_bytes)

    def shrink(self, max_bytes: int) -> None:
        """Go over to another limit, dropping what no longer fits."""
        self.max_bytes = max_bytes
        while self.bytes > max_bytes:
            _, (_, size) = self._entries.popitem(last=False)
            self.bytes -= size
        self._metrics.cache_bytes.set(self.bytes)


def _size(output: Output | Refused) -> int:
    numbers = output.value if isinstance(output, Output) else None
    return ENTRY_BYTES + (numbers.nbytes if isinstance(numbers, np.ndarray) else 0)
