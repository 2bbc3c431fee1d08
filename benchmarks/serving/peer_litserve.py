"""The same model under LitServe, with its batching: requests that arrive together share one call of ``predict``.

``python -m benchmarks.serving.peer_litserve PORT MODEL THREADS``.
"""

import sys
from typing import Any

import litserve
import torch
from fastapi import Request

import hub
from hub.reading import Source

BATCH = 64


class EmbeddingAPI(litserve.LitAPI):
    """Files of a form to vectors."""

    def __init__(self, model: str, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=0.002, api_path="/embed")
        self._name, self._threads = model, threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self._threads)
        self.embedder = hub.from_pretrained(self._name, device=device)
        self.embedder.warm_up()

    def decode_request(self, request: Request) -> list[Source]:
        return [Source.from_bytes(upload.file.read(), upload.filename) for upload in request.getlist("file")]

    def batch(self, inputs: list[list[Source]]) -> list[list[Source]]:
        return inputs

    def predict(self, batch: list[list[Source]]) -> list[list[list[float]]]:
        vectors = iter(self.embedder.embed([source for sources in batch for source in sources]).vectors.tolist())
        return [[next(vectors) for _ in sources] for sources in batch]

    def unbatch(self, output: list[list[list[float]]]) -> list[list[list[float]]]:
        return output

    def encode_response(self, output: list[list[float]]) -> dict[str, Any]:
        return {"embeddings": output}


if __name__ == "__main__":
    port, model, threads = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    server = litserve.LitServer(EmbeddingAPI(model, threads), accelerator="cpu", timeout=300)
    server.run(host="127.0.0.1", port=port, generate_client_file=False)
