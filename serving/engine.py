"""The engine: served models by name. Plain asyncio and threads; it knows neither HTTP nor Ray.

A request goes queue -> read -> prepare -> batch by cost -> forward -> answer; see `serving.lane` for one model's way.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar, get_args

from hub.embedder import Embedder
from hub.errors import UnknownModel
from hub.modeling import Layer
from serving.cache import ResultCache
from serving.canary import choose
from serving.config import CANARY, ModelSettings, ServiceSettings
from serving.errors import InvalidSettings, Unavailable
from serving.inputs import Input
from serving.jobs import Call, Output, Refused
from serving.keys import KeyRing
from serving.lane import Lane, State
from serving.metrics import Metrics
from serving.readers.base import Pool
from serving.readers.pool import ProcessPool
from serving.readers.threads import ThreadPool
from serving.spool import Scratch, Spool

logger = logging.getLogger("fmhub.serving")

Result = TypeVar("Result")

FIXED = (
    "embedder_factory", "reader_workers", "reader_memory_bytes", "reader_timeout_s", "reader_output_bytes", "spool_dir",
    "spool_threshold", "max_spool_bytes", "torch_threads", "host", "port", "tls", "cors_origins", "log_format",
    "log_requests", "hub_endpoint", "tracing",
)  # fmt: skip
"""Settings that only a restart can change."""


class Engine:
    """All served models, and where their inputs are read.

    Attributes:
        settings: Of the service.
        metrics: Its counters.
        pool: Where inputs are read.
        spool: Large uploads.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        """Prepare the models; nothing is loaded before ``start``.

        Raises:
            InvalidSettings: The embedder factory does not exist, or ``spool_dir`` cannot be written to.
        """
        self.settings = settings
        self.metrics = Metrics()
        self._factory = _resolve(settings.embedder_factory)
        self._scratch = Scratch(settings.spool_dir)
        self._scratch.check()
        self.spool = Spool(settings, self._scratch)
        workers = settings.reader_workers
        self.pool: Pool = ProcessPool(settings, self.metrics, self._scratch) if workers else ThreadPool(settings)
        self._loading = asyncio.Lock()
        self._cache = ResultCache(settings.cache_bytes, self.metrics)
        self._lanes = {m.id: self._lane(m, settings) for m in settings.checkpoints}
        self.metrics.watch_models(lambda: [lane.facts for lane in self._lanes.values()], get_args(State))
        self._starting: list[asyncio.Task[Embedder]] = []
        self._applying = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def _lane(self, model: ModelSettings, settings: ServiceSettings) -> Lane:
        return Lane(
            model,
            settings,
            self._factory,
            self.pool,
            self._loading,
            self.metrics,
            self._cache,
            self._make_room,
        )

    def _make_room(self, wanted: Lane) -> int:
        """Let go of idle models until all weights, those of ``wanted`` among them, are within the budget.

        Before a model's first loading its size is not known; it is called again after that.

        Returns:
            By how many bytes the budget is exceeded all the same, because the other models are in use.
        """
        budget = self.settings.memory_budget_bytes
        if budget is None:
            return 0
        lanes = list(self._lanes.values())
        loaded = [lane for lane in lanes if lane.embedder is not None or lane is wanted]
        excess = sum(lane.bytes for lane in loaded) - budget
        idle = [x for x in loaded if x is not wanted and x.settings.load == "first_use" and x.idle]
        for lane in sorted(idle, key=lambda lane: lane.last_used):
            if excess <= 0:
                break
            lane.unload()
            self.metrics.evictions.labels(lane.id).inc()
            logger.info("model %s made room for %s", lane.id, wanted.id)
            excess -= lane.bytes
        return max(0, excess)

    # --- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load the models that are to be there from the start; `ready` tells when they are."""
        if not self._starting:
            self._starting = [
                asyncio.create_task(lane.ready()) for lane in self._lanes.values() if lane.settings.load == "start"
            ]
        for task in self._starting:
            # A failure is logged and shown by the readiness route; nobody may be waiting for the task itself.
            task.add_done_callback(lambda t: t.cancelled() or t.exception())

    async def wait_ready(self) -> None:
        """Wait until the models of the start are loaded and warmed.

        Raises:
            HubError: One of them cannot be loaded.
        """
        self.start()
        await asyncio.gather(*self._starting)

    @property
    def ready(self) -> bool:
        """Whether every model of the start is loaded and warmed, and the engine is open."""
        return (
            not self._closed
            and bool(self._lanes)
            and all(lane.state == "ready" for lane in self._lanes.values() if lane.settings.load == "start")
        )

    def check(self) -> None:
        """Raise Unavailable when the engine cannot answer any more; for health checks."""
        if self._closed:
            raise Unavailable("the service is shutting down", code="shutting_down")
        self.pool.check()
        for lane in self._lanes.values():
            lane.check()

    async def apply(self, settings: ServiceSettings) -> None:
        """Go over to other settings: models come and go, the others stay loaded.

        A new model is loaded before it is shown, so that no request waits for it; one that goes finishes its work.

        Raises:
            InvalidSettings: A setting changed that only a restart can change.
            HubError: A new model cannot be loaded; then nothing has changed.
        """
        for name in FIXED:
            if getattr(settings, name) != getattr(self.settings, name):
                raise InvalidSettings(f"{name} cannot change while the service runs; restart it")
        KeyRing(settings)  # a damaged file of keys is refused before it could lock everyone out
        async with self._applying:
            await self._apply(settings)

    async def _apply(self, settings: ServiceSettings) -> None:
        lanes: dict[str, Lane] = {}
        for model in settings.checkpoints:
            lanes[model.id] = self._kept(model, lanes.values(), settings) or self._lane(model, settings)
        new = [lane for lane in lanes.values() if lane not in self._lanes.values()]
        try:
            await asyncio.gather(*(lane.ready() for lane in new if lane.settings.load == "start"))
        except Exception:
            await asyncio.gather(*(lane.close() for lane in new))
            raise
        gone = [lane for lane in self._lanes.values() if lane not in lanes.values()]
        for model in settings.checkpoints:
            lanes[model.id].update(model, settings)
        left = self._lanes.keys() - lanes.keys()
        self.settings, self._lanes = settings, lanes
        self._cache.shrink(settings.cache_bytes)
        for name in left:
            self.metrics.forget(name)
        for lane in gone:
            task = asyncio.create_task(self._let_go(lane))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _let_go(self, lane: Lane) -> None:
        await lane.close()
        if lane.id not in self._lanes:
            self.metrics.forget(lane.id)

    def _kept(self, model: ModelSettings, taken: Collection[Lane], settings: ServiceSettings) -> Lane | None:
        """Return the lane that holds a model's weights already, under its own name or one that goes: a canary's."""
        same = [lane for lane in self._lanes.values() if lane.settings.weights == model.weights and lane not in taken]
        stay = [
            m.id
            for m in settings.checkpoints
            if m.id in self._lanes and m.weights == self._lanes[m.id].settings.weights
        ]
        found = [lane for lane in same if lane.id == model.id] or [lane for lane in same if lane.id not in stay]
        return next(iter(found), None)

    async def close(self) -> None:
        """Finish what is in work within the grace time, then stop; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()), *self._closing)
        await self.pool.close()
        self._scratch.close()

    # --- requests ----------------------------------------------------------------------------------------

    @property
    def lanes(self) -> dict[str, Lane]:
        """The served models by id."""
        return dict(self._lanes)

    def lane(self, model: str) -> Lane:
        """Return a served model.

        Raises:
            UnknownModel: There is none of this name; the text lists those there are.
        """
        try:
            return self._lanes[model]
        except KeyError:
            served = ", ".join(self._lanes)
            raise UnknownModel(f"no model {model[:100]!r} is served here; served: {served}") from None

    def chosen(self, model: str, call: Call | None) -> Lane:
        """Return the lane that answers a request for a model: its own, or its canary's."""
        lane = self.lane(model)
        if lane.settings.canary is not None or (call is not None and call.canary and not model.endswith(CANARY)):
            lane = self.lane(choose(lane.settings, call))
        if call is not None:
            call.model = lane.id
        return lane

    async def embed(
        self,
        model: str,
        inputs: Sequence[Input],
        *,
        pooling: str | None = None,
        layer: Layer = None,
        kind: str = "input",
        call: Call | None = None,
        sanity: str | None = None,
    ) -> list[list[Output | Refused]]:
        """Embed the inputs of one request; see `Lane.run`.

        Raises:
            UnknownModel: No such model is served.
            Unavailable: The answer took longer than the time-out.
            HubError: What `Lane.run` raises.
        """
        lane = self.chosen(model, call)
        answer = lane.run(inputs, pooling=pooling, layer=layer, kind=kind, call=call, sanity=sanity)
        return await self.in_time(answer, call, lane)

    async def run(
        self, model: str, task: str, inputs: Sequence[Input], *, kind: str = "input", call: Call | None = None
    ) -> list[list[Output | Refused]]:
        """Run one of a model's further tasks on the inputs of one request; raises what `embed` raises."""
        lane = self.chosen(model, call)
        return await self.in_time(lane.run(inputs, task=task, kind=kind, call=call), call, lane)

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Do something beside the models, in a thread.

        Raises:
            Unavailable: It took longer than the time-out.
        """

        async def answer() -> Result:
            return await asyncio.get_running_loop().run_in_executor(self.pool.threads, work)

        return await self.in_time(answer(), None)

    def patience(self, call: Call | None) -> float:
        """Return the seconds after which a request is given up; of a stream, after which it is without a row."""
        seconds = self.settings.request_timeout_s
        if call is not None and call.timeout_s is not None:
            seconds = min(seconds, call.timeout_s)
        return seconds

    async def in_time(self, answer: Coroutine[Any, Any, Result], call: Call | None, lane: Lane | None = None) -> Result:
        """Return an answer, if it comes while its request has time.

        Args:
            answer: It.
            call: The request.
            lane: Whose answer it is, if it is a model's.

        Raises:
            Unavailable: It took longer.
        """
        seconds = self.patience(call)
        try:
            # What was not in the model by then never gets there: the job is given up, and its samples with it.
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            if lane is not None and lane.state == "loading":
                # Not the request's fault, and soon over: a client may try again.
                raise Unavailable(f"{lane.id} is still being loaded; try again later", code="model_loading") from None
            raise Unavailable(
                f"no answer within {seconds:g} s; send fewer inputs a request, or try later",
                code="timeout",
            ) from None


def _resolve(reference: str) -> Callable[..., Embedder]:
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidSettings(f"embedder_factory {reference!r} cannot be imported: {error}") from error
