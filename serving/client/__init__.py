"""A client of the service: files, bytes or plain values in, numpy arrays out.

>>> from serving.client import Client
>>> with Client("http://127.0.0.1:8000", key="fm_...") as client:                # doctest: +SKIP
...     found = client.embed("tera-tiny", sorted(folder.glob("*.wav")), progress=True)
>>> found.vectors.shape, found.embedding_space                                   # doctest: +SKIP

``client.stream`` gives row after row instead, for more samples than one answer or memory may hold.

`AsyncClient` has the same methods as coroutines, and keeps several requests in flight.
"""

from serving.client.answers import Embeddings, Item, ModelEntry, ServiceError, Unusable
from serving.client.clients import AsyncClient, Client
from serving.client.retries import Retries
from serving.client.streams import AsyncRowStream, RowStream, StreamedRow

__all__ = [
    "AsyncClient",
    "AsyncRowStream",
    "Client",
    "Embeddings",
    "Item",
    "ModelEntry",
    "Retries",
    "RowStream",
    "ServiceError",
    "StreamedRow",
    "Unusable",
]
