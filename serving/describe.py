"""What the service tells about a model."""

from __future__ import annotations

from typing import Any

from hub.cards import built_in_cards
from hub.embedder import Embedder
from serving.config import ServiceSettings
from serving.jobs import resolve_work
from serving.lane import Lane


def listed(lane: Lane) -> dict[str, Any]:
    """Return a model's entry in the list, in the shape of OpenAI's model object."""
    owner, slash, _ = lane.id.partition("/")
    return {
        "id": lane.id,
        "object": "model",
        # OpenAI's field; here the Unix time at which this server loaded the model, 0 before that.
        "created": int(lane.loaded_at),
        "owned_by": owner if slash else "fmhub",
        "state": lane.state,
        "domain": _domain(lane),
    }


def _domain(lane: Lane) -> str | None:
    """Return a model's domain; of one that was never loaded, what its built-in card says."""
    if lane.embedder is not None:
        return lane.embedder.system.domain.name
    card = built_in_cards().get(lane.settings.name)
    return card.domain if card is not None else None


def described(lane: Lane, settings: ServiceSettings) -> dict[str, Any]:
    """Return all that a client needs to use a model; of a model that is not loaded, its entry in the list."""
    entry = listed(lane)
    if lane.embedder is not None:
        entry |= _facts(lane.embedder)
        if lane.provenance is not None:
            entry |= lane.provenance.fields
            entry["embedding_space"] = lane.provenance.space(resolve_work(lane.embedder))
            entry["dtype"] = lane.settings.dtype
            entry["compiled"] = lane.settings.compile
            entry["dtype_error"] = lane.dtype_error.as_dict() if lane.dtype_error is not None else None
        entry["dimension"] = lane.dimension
        entry["batch_cost"] = lane.settings.batch_cost or lane.embedder.processor.batch_cost
    entry["request_limits"] = {
        "max_body_bytes": settings.max_body_bytes,
        "max_inputs": settings.max_inputs,
        "max_samples": settings.max_samples,
        "reader_output_bytes": settings.reader_output_bytes,
        # In threads nothing holds a reader to these.
        "reader_memory_bytes": settings.reader_memory_bytes if settings.reader_workers else None,
        "reader_timeout_s": settings.reader_timeout_s if settings.reader_workers else None,
        "max_queued_requests": lane.settings.max_queued_requests,
        "max_queue_s": settings.longest_queue_s,
        "request_timeout_s": settings.request_timeout_s,
    }
    return entry


def _facts(embedder: Embedder) -> dict[str, Any]:
    model, system, card = embedder.model, embedder.system, embedder.card
    metadata = card.metadata
    return {
        "domain": system.domain.name,
        "system": system.name,
        "title": system.title,
        "paper": system.paper,
        "summary": card.summary,
        "license": metadata.get("license"),
        "tags": metadata.get("tags", []),
        "inputs": {
            "files": list(system.domain.suffixes),
            "plain": embedder.reader.plain_form or None,
        },
        "limits": embedder.reader.limits(),
        "poolings": ["none", *model.poolings],
        "default_pooling": model.config.pooling,
        "hidden_states": model.num_hidden_states,
        "default_layer": model.config.layer,
        "tasks": list(model.tasks),
        "cost_unit": embedder.processor.cost_unit,
    }
