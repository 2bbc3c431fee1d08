"""What requests and answers look like: the shape of OpenAI's embeddings endpoint, with the domains' inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from serving.errors import InvalidRequest

Body = TypeVar("Body", bound=BaseModel)

LARGEST = 1 << 20
"""Whole number beyond which no layer or dimension lies; messages repeat what they refuse."""
INPUT_RULE = (
    "One input or an array of them. An input is a file as {'data': base64, 'filename'?: text}, or the plain form "
    "that the model's description states. An array is always many inputs; an object or a string is one. A plain "
    "form that is itself an array is therefore sent inside an array: [[0.1, 0.2]]."
)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InputRequest(_Request):
    """Inputs for a model that the path names."""

    input: Any = Field(description=INPUT_RULE)


class Options(_Request):
    """How embeddings are made and sent."""

    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: little-endian float32, four bytes a number, row by row."
    )
    pooling: StrictStr | None = Field(
        default=None,
        description="One of the model's poolings, or 'none' for all token states (base64 then has a shape).",
    )
    layer: Annotated[StrictInt, Field(ge=-LARGEST, le=LARGEST)] | Literal["average", "all"] | None = Field(
        default=None,
        description="Index of a hidden state, 'average' or 'all'; the model's default when absent.",
    )
    dimensions: StrictInt | None = Field(
        default=None,
        ge=1,
        le=LARGEST,
        description="Keep the first so many numbers and scale the vector to length 1, as OpenAI's endpoint does. "
        "The models here are not trained to put the most important numbers first, so expect to lose quality.",
    )
    sanity: Literal["flags", "neighbourhood", "stability"] | None = Field(
        default=None,
        description="flags: say of each input what speaks against it, in codes, and the facts read with it. "
        "neighbourhood: also how unlike the model's training data it is. stability: also how its embedding holds under "
        "mild changes of the input, which costs eight more forwards.",
    )
    user: StrictStr | None = Field(default=None, description="Accepted for OpenAI clients, and ignored.")


class ModelEmbeddingRequest(Options, InputRequest):
    """Body of ``POST /v1/models/{model}/embeddings``."""


class EmbeddingRequest(ModelEmbeddingRequest):
    """Body of ``POST /v1/embeddings``."""

    model: StrictStr = Field(min_length=1, description="Id of a served model.")


class Item(BaseModel):
    """Where an answer came from."""

    input: int = Field(description="Index of the input in the request.")
    source: str | None = Field(default=None, description="File name, when the input had one.")
    key: str = Field(description="Which sample of the input: a flow's id, a molecule's name; empty if it holds one.")


class Neighbourhood(BaseModel):
    """How near an input lies to a reference set of the kind that the model was trained on."""

    distance: float = Field(description="To the nearest of the reference set, in deviations a dimension.")
    percentile: float = Field(description="Percentage of held-out samples of the reference's kind that lie as far.")
    stability: float | None = Field(
        default=None, description="Cosine between its embedding and those of mildly changed copies."
    )
    stability_percentile: float | None = Field(
        default=None, description="Percentage of held-out samples that are less stable; both ends are unusual."
    )


class Sanity(BaseModel):
    """How far an input can be trusted, where ``sanity`` asks for it."""

    flags: list[str] = Field(description="Codes of the warnings; docs/sanity.md lists them.")
    facts: dict[str, Any] = Field(description="Read with the input: rate, spacing, size; by domain.")
    neighbourhood: Neighbourhood | None = None


class Embedding(BaseModel):
    """One sample's embedding."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | list[list[float]] | str
    shape: list[int] | None = Field(default=None, description="(tokens, dimension), for pooling 'none' as base64.")
    item: Item
    warnings: list[str] | None = None
    sanity: Sanity | None = None


class Unusable(BaseModel):
    """One sample of an input that cannot be used, where others of the same input can."""

    message: str
    code: str
    item: Item


class Usage(BaseModel):
    """Cost of the inputs, in the model's cost unit (frames, nodes, tokens, voxels)."""

    prompt_tokens: int
    total_tokens: int


class Origin(BaseModel):
    """What made an answer."""

    model: str
    revision: str | None = Field(description="Commit of the repository that the model came from, if it did.")
    weights: str = Field(description="SHA-256 of model.safetensors.")
    processor: str = Field(description="SHA-256 of preprocessor_config.json.")


class EmbeddingAnswer(Origin):
    """Embeddings in the order of the inputs, and of the samples in each."""

    object: Literal["list"] = "list"
    embedding_space: str = Field(
        description="Equal ids mean comparable vectors: the same weights, preprocessing, pooling, layer, dimensions "
        "and arithmetic. Different ids promise nothing."
    )
    data: list[Embedding]
    errors: list[Unusable] | None = Field(default=None, description="Samples left out of an input of many.")
    usage: Usage


class TaskResult(BaseModel):
    """One sample's result; a file as {'data': base64, 'media_type', 'filename'}."""

    object: str = Field(description="The task.")
    index: int
    result: Any
    item: Item
    warnings: list[str] | None = None


class TaskAnswer(Origin):
    """Results in the order of the inputs, and of the samples in each."""

    object: Literal["list"] = "list"
    data: list[TaskResult]
    errors: list[Unusable] | None = Field(default=None, description="Samples left out of an input of many.")
    usage: Usage


class Problem(BaseModel):
    """What went wrong."""

    type: str = Field(description="invalid_request_error, not_found_error, overloaded_error, unavailable_error, ...")
    message: str
    param: str | None = Field(description="The field or input to blame, for example input[3].")
    code: str = Field(description="Short machine-readable reason.")


class ErrorAnswer(BaseModel):
    """The shape of every error."""

    error: Problem


def form_values(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return a form's or a query's fields, which are text, with those that look like numbers, and may be, as such."""
    return {
        name: int(text) if name in ("dimensions", "layer") and re.fullmatch(r"-?\d{1,9}", text) else text
        for name, text in fields.items()
    }


def parse_request(form: type[Body], values: Any) -> Body:
    """Return a request's body as its model.

    Raises:
        InvalidRequest: A field is missing, unknown or of a wrong kind; the text names it.
    """
    if not isinstance(values, Mapping):
        raise InvalidRequest("the body must be a JSON object", param=None)
    try:
        return form.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = str(first["loc"][0])[:100] if first["loc"] else None
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")[:100]
    if first["type"] == "missing":
        raise InvalidRequest(f"{place} is missing", param=param, code="missing_field")
    if first["type"] == "extra_forbidden":
        known = f"; known: {', '.join(form.model_fields)}" if len(first["loc"]) == 1 else ""
        raise InvalidRequest(f"there is no field {place!r}{known}", param=param, code="unknown_field")
    if param == "layer":
        raise InvalidRequest("layer must be an integer, 'average' or 'all'", param=param)
    raise InvalidRequest(f"{place}: {first['msg']}", param=param)
