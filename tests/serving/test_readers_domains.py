"""Every domain's sample files: through a process as without one, and from disk as from memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hub.cards import list_models
from hub.embedder import from_pretrained
from serving.config import check_settings
from serving.errors import InputFailed
from serving.inputs import Input, SpooledUpload, UploadedFile
from serving.metrics import Metrics
from serving.readers.base import Pool
from serving.readers.caps import PROCESSES
from serving.readers.pool import ProcessPool
from serving.readers.stream import Order
from serving.readers.threads import ThreadPool
from serving.spool import Scratch

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROCESSES, reason="reader processes need Linux")]


def comparable(value: Any) -> Any:
    """A value as something that compares by its content."""
    if isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value)
        return str(value.dtype), array.shape, array.tobytes()
    if hasattr(value, "to_dict"):
        return comparable(value.to_dict())
    if isinstance(value, dict):
        return {k: comparable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value).__name__, [comparable(v) for v in value]
    if hasattr(value, "__dict__") and not isinstance(value, Exception):
        # What reads on demand stays where the file is.
        kept = {k: v for k, v in vars(value).items() if k not in ("source", "_threads")}
        return type(value).__name__, comparable(kept)
    return str(value)


async def read(pool: Pool, model: Any, item: Input, with_data: bool) -> Any:
    stream, found = pool.stream(model, Order([(0, item)], "file", with_data)), []
    try:
        while True:
            turn = await stream.turn()
            found += turn.prepared
            if turn.finished:
                return comparable(found)
    except InputFailed as error:
        return str(error.cause)
    finally:
        stream.close()


@pytest.mark.parametrize("name", [c.name for c in list_models() if c.has_weights])
def test_samples_are_the_same_wherever_they_are_read(name: str, tmp_path: Path) -> None:
    embedder = from_pretrained(name)
    files = embedder.system.domain.load("samples")(tmp_path)
    alone = tmp_path / "alone"

    async def main() -> None:
        settings = check_settings({"models": [name], "reader_workers": 1})
        pools: list[Pool] = [ProcessPool(settings, Metrics(), Scratch(tmp_path)), ThreadPool(settings)]
        try:
            models = [await p.add(embedder.intake, [embedder.system.domain.package]) for p in pools]
            used = 0
            for number, file in enumerate(files):
                content = file.read_bytes()
                spooled = alone / str(number) / "upload"
                spooled.parent.mkdir(parents=True)
                spooled.write_bytes(content)
                for with_data in (True, False):
                    found = [
                        await read(pool, model, item, with_data)
                        for pool, model in zip(pools, models, strict=True)
                        for item in (UploadedFile(content, file.name), SpooledUpload(spooled, file.name))
                    ]
                    assert all(f == found[0] for f in found), file.name
                    used += not isinstance(found[0], str)
            assert used >= 2
        finally:
            for pool in pools:
                await pool.close()

    asyncio.run(main())
