"""What requests and answers of the Open Inference Protocol look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

MAX_RANK = 8
"""Of a tensor's shape."""

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16",
    "BYTES",
]  # fmt: skip

Parameters = dict[str, StrictBool | StrictInt | StrictFloat | StrictStr]

Shape = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(max_length=MAX_RANK)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RequestInput(_Form):
    """One input tensor."""

    name: StrictStr
    shape: Shape
    datatype: Datatype
    parameters: Parameters = Field(default={}, description="binary_data_size: the bytes stand behind the JSON.")
    data: Any = Field(default=None, description="Elements, flat or nested as the shape is.")


class RequestOutput(_Form):
    """One output tensor that is wanted."""

    name: StrictStr
    parameters: Parameters = Field(default={}, description="binary_data: send it behind the JSON.")


class InferRequest(_Form):
    """Body of an inference request."""

    id: StrictStr | None = None
    parameters: Parameters = Field(
        default={},
        description="pooling, layer, dimensions, sanity: as for /v1; timeout: in microseconds; binary_data_output: "
        "send all outputs behind the JSON. Any other is a field of all inputs' plain form, such as sampling_rate.",
    )
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] = Field(
        default=[],
        description="embedding, item_input, item_key, item_rows, errors, sanity, or one of the model's tasks.",
    )


class ResponseOutput(BaseModel):
    """One output tensor."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferAnswer(BaseModel):
    """Answer to an inference request."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] = Field(description="What made the answer: weights, processor, embedding_space, ...")
    outputs: list[ResponseOutput]


class TensorFacts(BaseModel):
    """A tensor as a model's metadata describe it; -1 is any length."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(BaseModel):
    """What is known of a model."""

    name: str
    versions: list[str] = Field(description="The embedding_space of the default options; none before it is loaded.")
    platform: str
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    parameters: dict[str, Any]


class ServerMetadata(BaseModel):
    """What is known of the server."""

    name: str
    version: str
    extensions: list[str]


class IndexRequest(_Form):
    """Body of a request for the repository's index."""

    ready: StrictBool = False


class Live(BaseModel):
    """Whether the process works."""

    live: bool


class Ready(BaseModel):
    """Whether requests are answered."""

    ready: bool
    name: str | None = None


def schema_of(form: type[BaseModel]) -> dict[str, Any]:
    """Return a form's JSON schema without references: those of a part of the OpenAPI document would lead nowhere."""
    schema = form.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(v) for v in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return whole(parts[value["$ref"].rpartition("/")[2]])
        return {name: whole(v) for name, v in value.items()}

    found: dict[str, Any] = whole(schema)
    return found
