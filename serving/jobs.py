"""A request inside the engine: what it asked of the model, and the places its answers go to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hub.embedder import Embedder, Prepared
from hub.errors import InvalidInput, UnsupportedOption
from hub.modeling import Layer
from serving.errors import BodyTooLarge, InputFailed

if TYPE_CHECKING:
    from serving.provenance import Provenance
    from serving.tracing import RequestTrace


@dataclass(frozen=True)
class Work:
    """What the model is to do; only samples with equal work share a batch.

    Attributes:
        task: One of the model's further tasks, or ``None`` for embeddings.
        pooling: Of an embedding; resolved, never ``None`` there.
        layer: Of an embedding; resolved.
    """

    task: str | None = None
    pooling: str | None = None
    layer: Layer = None


def resolve_work(
    embedder: Embedder, *, task: str | None = None, pooling: str | None = None, layer: Layer = None
) -> Work:
    """Return what the model is to do, defaults resolved: who names them shares batches with who does not.

    Raises:
        UnsupportedOption: The model does not offer the task, pooling or layer.
    """
    if task is not None:
        if task not in embedder.model.tasks:
            offered = ", ".join(embedder.model.tasks) or "none"
            raise UnsupportedOption(
                f"this model offers no task {task[:100]!r}; it offers: {offered}",
                param="task",
                code="task_not_found",
            )
        return Work(task=task)
    embedder.model.check_options(pooling, layer)
    config = embedder.model.config
    return Work(pooling=pooling or config.pooling, layer=config.layer if layer is None else layer)


@dataclass
class Call:
    """What a request brings along beside its inputs, and what it took.

    Attributes:
        id: For the log.
        timeout_s: How long its sender waits, where it says so.
        provenance: Of the model that answered; ``None`` before one has.
        work: What it was asked to do, defaults resolved.
        trace: Of the request, where it is traced.
        client: Who asks, for the choice between a model and its canary.
        canary: Whether the canary is asked for or refused; ``None`` where the weight decides.
        model: Id of what answers; empty until that is chosen.
        bytes: Of its body.
        spent: Seconds by stage. ``read``: all turns of reading its inputs; ``queue``: the longest wait of a prepared
            sample; ``forward``: the batches that it had a part in; ``encode``: the answer to bytes.
    """

    id: str = ""
    timeout_s: float | None = None
    provenance: Provenance | None = None
    work: Work = Work()
    trace: RequestTrace | None = None
    client: str = ""
    canary: bool | None = None
    model: str = ""
    bytes: int = 0
    spent: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, seconds: float, **facts: int) -> None:
        """Note time just spent in a stage, and for the trace sizes of what was done there."""
        self.spent[stage] = self.spent.get(stage, 0.0) + seconds
        if self.trace is not None:
            self.trace.note(stage, seconds, facts)

    def longest(self, stage: str, seconds: float) -> None:
        """Note time just spent in a stage beside others in it."""
        self.spent[stage] = max(self.spent.get(stage, 0.0), seconds)
        if self.trace is not None:
            self.trace.note(stage, seconds, {})


@dataclass(frozen=True)
class Output:
    """The model's answer for one sample.

    Attributes:
        value: A float32 vector or token array, or what the task returned.
        key: Which sample of its input it was.
        cost: Of the sample, in the processor's unit.
        warnings: What to know about the input although it was accepted.
        facts: Read with the sample, and safe to return.
        neighbourhood: How unlike the training data it is, where that was asked for.
    """

    value: Any = field(repr=False)
    key: str
    cost: int
    warnings: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    neighbourhood: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Refused:
    """One sample of an input that cannot be used, where others of the same input can.

    Attributes:
        key: Which sample of its input it was.
        error: Why.
    """

    key: str
    error: InvalidInput


class Job:
    """One request: it collects the outputs of its samples, each at its place, and ends once.

    It lives on the event loop; only ``done`` is read by threads.
    """

    def __init__(
        self, work: Work, inputs: int, kind: str, max_samples: int, call: Call | None = None, views: int = 0
    ) -> None:
        """Open a place for each input.

        Args:
            work: What the model is to do.
            inputs: How many inputs the request has.
            kind: Name of the request's field that holds them, for messages.
            max_samples: Limit on the samples of all inputs together.
            call: The request that it is for.
            views: Changed copies that come after each sample, and are no samples of their own.
        """
        self.work = work
        self.call = call or Call()
        self.kind = kind
        self.future: asyncio.Future[list[list[Output | Refused]]] = asyncio.get_running_loop().create_future()
        self._outputs: list[list[Output | Refused | None]] = [[] for _ in range(inputs)]
        self._max_samples, self._views = max_samples, views
        self._samples = 0
        self._missing = 0
        self._reading = 0

    @property
    def done(self) -> bool:
        """Whether it was answered, failed or given up: then its samples need no forward."""
        return self.future.done()

    def begin_reading(self, streams: int) -> None:
        """Note how many streams will bring samples; with none the request is answered."""
        self._reading = streams
        self._finish()

    def end_reading(self) -> None:
        """Note that one of the streams has come to its end."""
        self._reading -= 1
        self._finish()

    def add(self, index: int, prepared: Prepared) -> Waiting:
        """Open a place for a sample of input ``index``.

        Raises:
            BodyTooLarge: The request's inputs hold more samples than one request may.
        """
        self._count()
        self._outputs[index].append(None)
        self._missing += 1
        return Waiting(prepared, self, index, len(self._outputs[index]) - 1)

    def fill(self, index: int, outputs: Sequence[Output | Refused]) -> None:
        """Store all outputs of input ``index``, known from before.

        Raises:
            BodyTooLarge: The request's inputs hold more samples than one request may.
        """
        for output in outputs:
            self._count()
            self._outputs[index].append(output)

    def refuse(self, index: int, refused: Refused) -> None:
        """Note a sample of input ``index`` that cannot be used.

        Raises:
            BodyTooLarge: The request's inputs hold more samples than one request may.
        """
        self._count()
        self._outputs[index].append(refused)

    def _count(self) -> None:
        self._samples += 1
        if self._samples > self._max_samples * (1 + self._views):
            raise BodyTooLarge(
                f"the inputs hold more than {self._max_samples} samples; send fewer or smaller files a request",
                code="too_many_samples",
            )

    def put(self, waiting: Waiting, value: Any) -> None:
        """Store the model's answer for one sample."""
        cost, sample = waiting.prepared.cost, waiting.prepared.sample
        self._outputs[waiting.index][waiting.ordinal] = Output(
            value, sample.key, cost, sample.warnings, sample.metadata
        )
        self._missing -= 1
        self._finish()

    async def room(self) -> None:
        """Wait until more samples may be read; what is answered as a whole takes them all."""

    def spoil(self, waiting: Waiting, error: Exception) -> None:
        """Note that the model could not answer for one sample, which fails the request."""
        self.fail(InputFailed(error, param=waiting.place))

    def fail(self, error: Exception) -> None:
        """End the request with an error, unless it has ended."""
        if not self.done:
            self.future.set_exception(error)

    def give_up(self) -> None:
        """End the request because nobody waits for it any more."""
        self.future.cancel()

    def _finish(self) -> None:
        if not self._reading and not self._missing and not self.done:
            # No place is empty now, so the outputs are what the type says.
            self.future.set_result(self._outputs)  # type: ignore[arg-type]


@dataclass(eq=False)
class Waiting:
    """A prepared sample on its way through the model, and its place in its job."""

    prepared: Prepared
    job: Job
    index: int
    ordinal: int
    since: float = field(default_factory=time.monotonic)

    @property
    def place(self) -> str:
        """Where in the request its input stands, for messages."""
        return f"{self.job.kind}[{self.index}]"
