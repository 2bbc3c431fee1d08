"""What the Open Inference Protocol's routes tell about the server and its models."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from serving.jobs import resolve_work
from serving.lane import Lane
from serving.metrics import Metrics
from serving.protocols.v2_answers import EMBEDDING, INPUT, KEY
from serving.protocols.v2_inputs import FILE, FILENAME, JSON

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]

CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}


def server() -> dict[str, Any]:
    """Return the server's metadata."""
    return {"name": "fmhub", "version": version("fmhub"), "extensions": EXTENSIONS}


def version_of(lane: Lane) -> str | None:
    """Return a model's version: the embedding space of its default options; ``None`` before it is loaded."""
    if lane.embedder is None or lane.provenance is None:
        return None
    return lane.provenance.space(resolve_work(lane.embedder))


def is_ready(lane: Lane) -> bool:
    """Whether a request would be answered; one that is loaded on first use is loaded by it."""
    return lane.state == "ready" or (lane.state == "not_loaded" and lane.settings.load == "first_use")


def metadata(lane: Lane) -> dict[str, Any]:
    """Return a model's metadata."""
    found = version_of(lane)
    parameters: dict[str, Any] = {}
    outputs = [_tensor(EMBEDDING, "FP32", [-1, lane.dimension or -1]), _tensor(INPUT, "INT64"), _tensor(KEY, "BYTES")]
    if lane.embedder is not None and lane.provenance is not None:
        parameters = {
            **lane.provenance.fields,
            "plain_form": lane.embedder.reader.plain_form,
            "poolings": ["none", *lane.embedder.model.poolings],
            "tasks": list(lane.embedder.model.tasks),
        }
        outputs += [_tensor(task, "BYTES") for task in lane.embedder.model.tasks]
    return {
        "name": lane.id,
        "versions": [found] if found else [],
        "platform": "fmhub",
        "inputs": [_tensor(FILE, "BYTES"), _tensor(FILENAME, "BYTES"), _tensor(JSON, "BYTES")],
        "outputs": outputs,
        "parameters": parameters,
    }


def _tensor(name: str, datatype: str, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [-1]}


def configuration(lane: Lane) -> dict[str, Any]:
    """Return a model's configuration in Triton's words; a batch dimension that it would add is part of the shapes."""
    told = metadata(lane)

    def entry(tensor: dict[str, Any]) -> dict[str, Any]:
        return {"name": tensor["name"], "data_type": CONFIG_TYPES[tensor["datatype"]], "dims": tensor["shape"]}

    return {
        "name": lane.id,
        "platform": "fmhub",
        "backend": "fmhub",
        "max_batch_size": 0,
        "input": [entry(t) | ({"optional": True} if t["name"] == FILENAME else {}) for t in told["inputs"]],
        "output": [entry(t) for t in told["outputs"]],
    }


def index(lanes: Iterable[Lane], ready_only: bool) -> list[dict[str, Any]]:
    """Return the repository's index."""
    states = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE", "closed": "UNAVAILABLE"}
    return [
        {
            "name": lane.id,
            "version": version_of(lane) or "",
            "state": states.get(lane.state, "UNAVAILABLE"),
            "reason": "loaded by its first request" if lane.state == "not_loaded" else "",
        }
        for lane in lanes
        if lane.state == "ready" or not ready_only
    ]


def statistics(lanes: Iterable[Lane], metrics: Metrics) -> dict[str, Any]:
    """Return what the metrics counted, of all protocols' requests, in the protocol's words.

    The times are of the work: a queue entry is one sample's wait, and a read one turn, of which a request has many.
    """
    return {"model_stats": [_statistics(lane, metrics) for lane in lanes]}


def _statistics(lane: Lane, metrics: Metrics) -> dict[str, Any]:
    def value(name: str, **labels: str) -> float:
        return metrics.registry.get_sample_value(name, {"model": lane.id, **labels}) or 0.0

    def stage(name: str) -> dict[str, int]:
        series = "fmhub_stage_duration_seconds"
        seconds = value(f"{series}_sum", stage=name)
        return {"count": int(value(f"{series}_count", stage=name)), "ns": round(1e9 * seconds)}

    forward = stage("forward")
    return {
        "name": lane.id,
        "version": version_of(lane) or "",
        "inference_count": int(value("fmhub_batch_samples_sum")),
        "execution_count": forward["count"],
        "inference_stats": {
            "queue": stage("queue"),
            "compute_input": stage("read"),
            "compute_infer": forward,
            "compute_output": stage("encode"),
        },
    }
