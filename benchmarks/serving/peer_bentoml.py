"""The same model under BentoML, with its adaptive batching: files of all waiting requests share one call.

``bentoml serve benchmarks.serving.peer_bentoml:Embedding --port PORT``; model and threads come from the environment.
"""

import os
from pathlib import Path

import bentoml
import numpy as np
import torch

import hub
from hub.reading import Source

BATCH = 64


@bentoml.service(workers=1, traffic={"timeout": 300, "max_concurrency": 100_000})
class Embedding:
    """Files of a form to vectors."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["BENCH_THREADS"]))
        self.embedder = hub.from_pretrained(os.environ["BENCH_MODEL"])
        self.embedder.warm_up()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=300_000)
    def embed(self, file: list[Path]) -> np.ndarray:
        return self.embedder.embed([Source.from_bytes(path.read_bytes(), path.name) for path in file]).vectors
