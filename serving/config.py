"""The service's settings: one set of names for the command line, a YAML file, and a Ray Serve ``args`` section."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serving.errors import InvalidSettings

MIB = 1024 * 1024

CANARY = "@canary"
"""Follows a model's id in that of its canary."""

VARIABLE_PREFIX = "FMHUB_SERVE_"

Form = TypeVar("Form", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Checkpoint(_Strict):
    name: str = Field(min_length=1, description="Built-in name, folder, or org/repo on the Hugging Face Hub.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a repository.")
    device: str | None = Field(default=None, description="For example cuda:0; the embedder chooses when absent.")
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = Field(
        default="float32", description="Of the weights; int8: of linear layers on the CPU, the rest in float32."
    )
    compile: bool = Field(default=False, description="By torch.compile: loading takes a minute, forwards less time.")
    batch_cost: int | None = Field(
        default=None, ge=1, description="Padded cost of one forward; the processor's otherwise."
    )


class CanarySettings(_Checkpoint):
    """A second checkpoint that answers a share of a model's clients; what is not given is as for the model."""

    weight: float = Field(ge=0, le=1, description="Share of the clients, by key or address; 0: only who asks for it.")


class ModelSettings(_Checkpoint):
    """One served model. In a list of models a string ``NAME`` or ``ALIAS=NAME`` stands for the whole entry."""

    alias: str | None = Field(default=None, pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$", description="What requests call it.")
    canary: CanarySettings | None = None
    load: Literal["start", "first_use"] = "start"
    max_queued_requests: int = Field(default=128, ge=1, description="Requests waiting or in work; beyond them 429.")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        alias, equals, name = value.rpartition("=")
        return {"name": name, "alias": alias} if equals else {"name": name}

    @property
    def id(self) -> str:
        """What requests call the model: its alias, or its name; of a folder the last part, never the path."""
        if self.alias:
            return self.alias
        return Path(self.name).resolve().name if Path(self.name).is_dir() else self.name

    @property
    def checkpoints(self) -> tuple[ModelSettings, ...]:
        """The model, and its canary as a model of its own with an id that no other model can have."""
        if self.canary is None:
            return (self,)
        own = self.canary.model_dump(exclude_unset=True, exclude={"weight"})
        return self, self.model_copy(update={"revision": None, **own, "alias": self.id + CANARY, "canary": None})

    @property
    def weights(self) -> tuple[Any, ...]:
        """What decides which embedder is loaded; other settings can change while it stays."""
        return (self.name, self.revision, self.device, self.dtype, self.compile)


class KeySettings(_Strict):
    """One bearer key, as ``fmhub key new NAME`` prints it: its hash, never the key itself."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$", description="Whose it is: shown in the log and the metrics.")
    hash: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="'sha256:' and the key's SHA-256 in hexadecimal.")
    models: list[str] | None = Field(
        default=None, description="Ids it may use, with * as a wildcard (org/*); all models when absent."
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Beyond it 429; each replica counts for itself."
    )


def distinct_keys(keys: list[KeySettings]) -> list[KeySettings]:
    """Return the keys; raise ValueError where two have the same name or the same hash."""
    for what in ("name", "hash"):
        values = [getattr(k, what) for k in keys]
        twice = next((k.name for k in keys if values.count(getattr(k, what)) > 1), None)
        if twice is not None:
            raise ValueError(f"the {what} of {twice} is listed twice")
    return keys


class TLSSettings(_Strict):
    """HTTPS without a proxy in front."""

    certificate: Path = Field(description="PEM file: the certificate, then those of its issuers.")
    key: Path = Field(description="PEM file with the private key.")


class TracingSettings(_Strict):
    """Traces by OpenTelemetry; needs the packages of the extra ``tracing``."""

    endpoint: str | None = Field(
        default=None, pattern=r"^https?://\S+$", description="Of an OTLP collector, over HTTP; no traces without it."
    )
    service_name: str = Field(default="fmhub", min_length=1)
    sample_ratio: float = Field(
        default=1.0, ge=0, le=1, description="Share of traces begun here; of others the caller decides."
    )


class RaySettings(_Strict):
    """How Ray Serve runs the deployment."""

    num_replicas: int = Field(default=1, ge=1)
    autoscaling: dict[str, Any] | None = Field(
        default=None,
        description="Ray Serve's autoscaling_config (min_replicas, max_replicas, ...); replaces num_replicas.",
    )
    num_cpus: float = Field(default=1.0, ge=0, description="Reserved for each replica.")
    num_gpus: float = Field(default=0.0, ge=0)
    health_check_period_s: float = Field(
        default=5.0, gt=0, description="Between two questions to a replica; it is replaced after three bad answers."
    )
    max_ongoing_requests: int | None = Field(
        default=None,
        ge=8,  # a small value is a trap: full replicas make the router retry with back-off, at 1/20 of the throughput
        description="Requests inside one replica; more than its engine queues unless given, so that the engine's own "
        "429 comes first.",
    )
    max_queued_requests: int = Field(
        default=512, ge=1, description="Requests waiting in each proxy when replicas are full."
    )
    object_store_memory: int = Field(
        default=128 * MIB, ge=75 * MIB, description="Bytes of shared memory for a local Ray."
    )

    @property
    def most_replicas(self) -> int:
        """How many replicas there may be."""
        return int((self.autoscaling or {}).get("max_replicas", self.num_replicas))


class ServiceSettings(_Strict):
    """Everything that can be set about the service."""

    models: list[ModelSettings] = Field(min_length=1)
    embedder_factory: str = Field(
        default="hub:from_pretrained",
        pattern=r"^[\w.]+:\w+$",
        description="module:function called as hub.from_pretrained is; replace it to serve embedders of your own.",
    )
    keys: list[KeySettings] = Field(default=[], description="Who may use the service; everyone when empty.")
    keys_file: Path | None = Field(
        default=None, description="YAML list of further keys, read again when it changes: to add and revoke them."
    )
    insecure: bool = Field(default=False, description="Listen on other addresses than this machine's without keys.")
    metrics_access: Literal["key", "open"] = Field(
        default="key", description="Whether /metrics asks for a key, where there are keys."
    )
    cors_origins: list[str] = Field(
        default=[], description="Origins whose pages may call the service from a browser, or ['*']; none by default."
    )
    tls: TLSSettings | None = None
    hub_endpoint: bool = Field(
        default=False,
        description="Answer as a Hugging Face endpoint: whoever may use a model may then download its weights.",
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Of what goes to standard error.")
    log_requests: bool = Field(default=True, description="One line a request, without its content.")
    tracing: TracingSettings = TracingSettings()
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one.")
    max_wait_ms: float = Field(
        default=2.0,
        ge=0,
        le=1000,
        description="Longest that a sample waits for others still being read; never when idle.",
    )
    reader_workers: int = Field(
        default_factory=lambda: min(4, os.cpu_count() or 1) if sys.platform == "linux" else 0,
        ge=0,
        le=256,
        description="Processes that files are read in; 0 reads in threads of the server, without the caps below.",
    )
    reader_memory_bytes: int = Field(
        default=4096 * MIB, ge=64 * MIB, description="Of one reader process beyond what it starts with; beyond it 413."
    )
    reader_timeout_s: float = Field(default=30.0, gt=0, description="For one sample to be read; beyond it 422.")
    reader_output_bytes: int = Field(
        default=1024 * MIB, ge=1, description="Of one input's samples, prepared for the model; beyond it 413."
    )
    spool_dir: Path | None = Field(
        default=None, description="Where large uploads and readers' files lie; the system's temporary folder if absent."
    )
    spool_threshold: int = Field(default=MIB, ge=0, description="Uploaded files that are larger go to disk.")
    max_spool_bytes: int = Field(default=4096 * MIB, ge=1, description="All uploads on disk; beyond it 429.")
    torch_threads: int | None = Field(default=None, ge=1, description="Of each model's forward; all cores when absent.")
    max_body_bytes: int = Field(default=64 * MIB, ge=1, description="One request's body; beyond it 413.")
    max_pending_bytes: int = Field(default=1024 * MIB, ge=1, description="All bodies in memory; beyond it 429.")
    max_inputs: int = Field(default=2048, ge=1, description="Inputs of one request; beyond it 413.")
    max_samples: int = Field(
        default=16_384, ge=1, description="Samples that one request's inputs may hold; beyond it 413."
    )
    memory_budget_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Of all models' weights; beyond it idle models with load: first_use go, least recently used first.",
    )
    cache_bytes: int = Field(default=0, ge=0, description="Of results kept for inputs that come again; 0 keeps none.")
    request_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="From the whole body to the answer; beyond it 503. X-Request-Timeout may ask for less.",
    )
    max_queue_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds of work that may wait for a model, by what it has done a second; beyond them 429. A third "
        "of request_timeout_s unless given.",
    )
    restart_on_hang: bool = Field(
        default=True,
        description="With --backend local: start the process anew when a forward has outlived request_timeout_s.",
    )
    body_timeout_s: float = Field(
        default=300.0, gt=0, description="From a request's headers to the end of its body; beyond it 408."
    )
    shutdown_grace_s: float = Field(default=10.0, ge=0, description="Time for requests in work when the service stops.")
    ray: RaySettings = RaySettings()

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: list[ModelSettings]) -> list[ModelSettings]:
        ids = [c.id for m in models for c in m.checkpoints]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice; give one of them an alias")
        return models

    @field_validator("keys")
    @classmethod
    def _distinct_keys(cls, keys: list[KeySettings]) -> list[KeySettings]:
        return distinct_keys(keys)

    @model_validator(mode="after")
    def _body_fits(self) -> ServiceSettings:
        if self.max_pending_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_pending_bytes={self.max_pending_bytes} is below max_body_bytes={self.max_body_bytes}, "
                "so the largest allowed body could never be taken"
            )
        return self

    @model_validator(mode="after")
    def _guarded(self) -> ServiceSettings:
        if not (self.keys or self.keys_file or self.insecure or is_loopback(self.host)):
            raise ValueError(
                f"host {self.host} can be reached from other machines and no key is configured: make one with "
                "'fmhub key new NAME', or say that everyone may come in with 'insecure: true' or --insecure"
            )
        return self

    @property
    def longest_queue_s(self) -> float:
        """Seconds of work that may wait for a model."""
        return self.request_timeout_s / 3 if self.max_queue_s is None else self.max_queue_s

    @property
    def checkpoints(self) -> list[ModelSettings]:
        """All models, each followed by its canary."""
        return [checkpoint for model in self.models for checkpoint in model.checkpoints]

    @property
    def max_ongoing_requests(self) -> int:
        """Requests that Ray lets into one replica at once."""
        return self.ray.max_ongoing_requests or sum(m.max_queued_requests for m in self.checkpoints) + 64


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach an address; a name other than localhost may be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_settings(values: Mapping[str, Any]) -> ServiceSettings:
    """Return the settings that a mapping (of a YAML file, of Ray's ``args``) describes.

    Raises:
        InvalidSettings: A name is unknown or a value cannot be; the text names each.
    """
    return settings_of(ServiceSettings, dict(values))


def settings_of(form: type[Form], values: Any, place: str = "") -> Form:
    """Return a value as settings of some form; ``place`` is where it stands, for messages.

    Raises:
        InvalidSettings: A name is unknown or a value cannot be; the text names each.
    """
    try:
        return form.model_validate(values)
    except ValidationError as error:
        raise InvalidSettings("; ".join(_sentence(e, place) for e in error.errors(include_url=False))) from None


def _sentence(error: Any, place: str) -> str:
    place += "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error["loc"])
    place = place.lstrip(".")
    if error["type"] == "extra_forbidden":
        return f"{place}: there is no such setting"
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    shown = f" (got {given!r})" if isinstance(given, str | int | float) else ""
    return f"{place or 'settings'}: {message}{shown}"


def load_settings(
    path: Path | None, overrides: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> ServiceSettings:
    """Return the settings of a YAML file, with the environment's on top, and the command line's on top of both.

    Args:
        path: YAML with the names of `ServiceSettings`; without one, the defaults.
        overrides: What was given explicitly; ``None`` values were not.
        environment: See `with_environment`; the process's unless given.

    Raises:
        InvalidSettings: The file cannot be read or holds something else, or a value cannot be.
    """
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise InvalidSettings(f"{path}: {error.strerror or 'cannot be read'}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"{path} is not YAML: {error}") from None
        if not isinstance(values, dict):
            raise InvalidSettings(f"{path} should hold settings by name, for example 'models: [NAME]'")
    values = with_environment(values, os.environ if environment is None else environment)
    values |= {name: value for name, value in overrides.items() if value is not None}
    if "models" not in values:
        values["models"] = _built_in()
    return check_settings(values)


def with_environment(values: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return settings with those of environment variables on top.

    ``FMHUB_SERVE_PORT=80`` sets ``port``; two underscores go a level down: ``FMHUB_SERVE_RAY__NUM_REPLICAS=2``. Values
    are YAML, so that a list is ``[a, b]``.

    Args:
        values: Settings by name; not changed.
        environment: Variables by name.

    Raises:
        InvalidSettings: A value is not YAML, or a part of its name names no group of settings.
    """
    merged = dict(values)
    for variable, text in sorted(environment.items()):
        if not variable.startswith(VARIABLE_PREFIX):
            continue
        *groups, name = variable.removeprefix(VARIABLE_PREFIX).lower().split("__")
        place = merged
        for group in groups:
            inner = place.get(group) or {}
            if not isinstance(inner, Mapping):
                raise InvalidSettings(f"{variable}: {group} is no group of settings")
            # A copy: what came from the file or the caller stays as it was.
            place[group] = place = dict(inner)
        try:
            place[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InvalidSettings(f"{variable} is not YAML; a list is written [a, b]") from None
    return merged


def _built_in() -> list[str]:
    from hub.cards import list_models

    names = [card.name for card in list_models() if card.has_weights]
    if not names:
        raise InvalidSettings("models: no built-in model has weights here; name a folder or an org/repo")
    return names
