"""The service as a competent engineer writes it in an hour: FastAPI and uvicorn, one thread for the model, a batcher.

The batcher takes whatever files wait, up to ``BATCH``, and embeds them in one call, so that what arrives while the
model works shares the next call. ``python -m benchmarks.serving.peer_fastapi PORT MODEL THREADS``.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch
import uvicorn
from fastapi import FastAPI, UploadFile

import hub
from hub.reading import Source

BATCH = 64

port, model, threads = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
embedder = hub.from_pretrained(model)
embedder.warm_up()
queue: asyncio.Queue[tuple[Source, asyncio.Future[list[float]]]] = asyncio.Queue()


async def work() -> None:
    while True:
        batch = [await queue.get()]
        while len(batch) < BATCH and not queue.empty():
            batch.append(queue.get_nowait())
        found = await asyncio.to_thread(embedder.embed, [source for source, _ in batch])
        for (_, future), vector in zip(batch, found.vectors, strict=True):
            future.set_result(vector.tolist())


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    worker = asyncio.create_task(work())
    yield
    worker.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/")
def health() -> str:
    return "ok"


@app.post("/embed")
async def embed(file: list[UploadFile]) -> dict[str, list[list[float]]]:
    futures = []
    for upload in file:
        future = asyncio.get_running_loop().create_future()
        queue.put_nowait((Source.from_bytes(await upload.read(), upload.filename or "upload"), future))
        futures.append(future)
    return {"embeddings": await asyncio.gather(*futures)}


if __name__ == "__main__":
    uvicorn.run(app, port=port)
