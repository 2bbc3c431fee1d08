"""Which of a model's two checkpoints answers a request: its own, or the one that is being tried out.

One client must not get vectors of two spaces by turns, so the choice depends on who asks and on nothing else: the key,
or the address where there is none. It is the same in each replica and after a restart, and a growing weight only ever
moves clients towards the canary.
"""

from __future__ import annotations

import hashlib

from starlette.requests import Request

from hub.errors import UnknownModel
from serving.config import CANARY, ModelSettings
from serving.errors import InvalidRequest
from serving.jobs import Call

HEADER = "X-Fmhub-Canary"


def note_client(request: Request, call: Call) -> None:
    """Note in a call who asks, and whether the canary is asked for or refused.

    Raises:
        InvalidRequest: ``X-Fmhub-Canary`` is neither true nor false.
    """
    key = getattr(request.state, "key", None)
    host = request.client.host if request.client is not None else ""
    call.client = f"key {key.name}" if key is not None else f"address {host}"
    given = request.headers.get(HEADER)
    if given is not None:
        if given.lower() not in ("true", "false"):
            raise InvalidRequest(f"the header {HEADER} must be true or false", param=HEADER, code="invalid_header")
        call.canary = given.lower() == "true"


def choose(model: ModelSettings, call: Call | None) -> str:
    """Return the id of the lane that answers a request for a model.

    Raises:
        UnknownModel: The canary is asked for, and the model has none.
    """
    forced = None if call is None else call.canary
    if model.canary is None:
        if forced:
            raise UnknownModel(f"{model.id} has no canary; leave out the header {HEADER}")
        return model.id
    chosen = share(model.id, call.client) < model.canary.weight if forced is None and call is not None else forced
    return model.id + CANARY if chosen else model.id


def share(model: str, client: str) -> float:
    """Return a client's fixed place in [0, 1) among all clients of a model."""
    # With the model's id, so that the canaries of two models do not fall to the same clients.
    digest = hashlib.blake2b(f"{model}\n{client}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
