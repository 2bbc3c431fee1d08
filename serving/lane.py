"""One model's way through the service: load, read, batch, forward, answer."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from hub.embedder import Embedder
from hub.errors import HubError
from hub.modeling import Layer
from hub.neighbourhood import Neighbourhood
from serving.admission import Admission, shutting_down
from serving.batch_loop import BatchLoop
from serving.cache import ResultCache
from serving.config import ModelSettings, ServiceSettings
from serving.demand import size_of
from serving.errors import Unavailable
from serving.forwarding import limit_torch_threads
from serving.inputs import Input
from serving.jobs import Call, Job, Output, Refused, Waiting, Work, resolve_work
from serving.loading import load_model
from serving.metrics import Metrics, ModelFacts
from serving.numerics import NumericError
from serving.provenance import Provenance
from serving.readers.base import Pool, Readable
from serving.readers.stream import Order
from serving.streams import InputJob, SampleStream
from serving.vicinity import Vicinity, check_space, check_views, reference_of, views_for

logger = logging.getLogger("fmhub.serving")

RETRY_LOAD_SECONDS = 30.0
"""A model that failed to load is not tried again sooner: each try costs seconds and memory."""

State = Literal["not_loaded", "loading", "ready", "failed", "closed"]


class Lane:
    """One served model. While a batch is in the model, the samples of the next one are read and prepared.

    Everything but reading (see `serving.readers`) and ``forward_batch`` (the model's one thread) runs on the event
    loop, so nothing here needs a lock.
    """

    def __init__(
        self,
        settings: ModelSettings,
        service: ServiceSettings,
        factory: Callable[..., Embedder],
        pool: Pool,
        loading: asyncio.Lock,
        metrics: Metrics,
        cache: ResultCache,
        make_room: Callable[[Lane], int],
    ) -> None:
        """Prepare to serve; nothing is loaded yet.

        Args:
            settings: Of this model.
            service: Of the service.
            factory: Loads the embedder; called as `hub.from_pretrained` is.
            pool: Where all lanes' inputs are read.
            loading: Held while any lane loads: transformers sets process-wide state meanwhile.
            metrics: Where to count.
            cache: Results of inputs that came before.
            make_room: Called before this lane's model is loaded, and after, when its size is known, and when the lane
                falls idle; it returns by how many bytes the models exceed their budget.
        """
        self.settings = settings
        self.id = settings.id
        self.embedder: Embedder | None = None
        self.dimension = 0
        self.provenance: Provenance | None = None
        self.dtype_error: NumericError | None = None
        self.bytes = 0
        self.last_used = -math.inf
        self.admission = Admission(settings, service, metrics)
        self.loaded_at = 0.0
        self._load_seconds = 0.0
        self._service = service
        self._factory = factory
        self._pool = pool
        self._readable: Readable | None = None
        self._loading = loading
        self._metrics = metrics
        self._cache = cache
        self._make_room = make_room
        threads = service.torch_threads or os.cpu_count() or 1
        self._thread = ThreadPoolExecutor(1, f"model-{self.id}", limit_torch_threads, (threads,))
        self._batches: BatchLoop | None = None
        self._reference: Neighbourhood | None = None
        self._jobs: set[Job | SampleStream] = set()
        self._load_task: asyncio.Task[Embedder] | None = None
        self._failed_at = -math.inf

    # --- loading -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the model is between not loaded and closed."""
        if self.admission.closed:
            return "closed"
        if self.embedder is not None:
            return "ready"
        if self._load_task is None:
            return "not_loaded"
        return "failed" if self._load_task.done() else "loading"

    @property
    def facts(self) -> ModelFacts:
        """What the metrics show of the model."""
        size = self.bytes if self.embedder is not None else 0
        return ModelFacts(self.id, self.state, size, self.provenance.fields if self.provenance else {})

    async def ready(self) -> Embedder:
        """Return the embedder, loaded and warmed; whoever asks first starts the loading.

        Raises:
            HubError: It could not be loaded.
        """
        if self.embedder is not None:
            return self.embedder
        tried = self._load_task is not None and self._load_task.done()
        if self._load_task is None or (tried and time.monotonic() > self._failed_at + RETRY_LOAD_SECONDS):
            # In a context of its own: what it starts outlives the request that happened to come first.
            self._load_task = asyncio.create_task(self._load(), context=contextvars.Context())
        # Shielded: the loading goes on for others when one who waits for it gives up.
        return await asyncio.shield(self._load_task)

    async def _load(self) -> Embedder:
        loop = asyncio.get_running_loop()
        self._pool.start()
        try:
            async with self._loading:
                self._make_room(self)
                loaded = await loop.run_in_executor(self._thread, load_model, self._factory, self.settings)
                package = loaded.embedder.system.domain.package
                self._readable = await self._pool.add(loaded.embedder.intake, [package])
        except Exception:
            self._failed_at = time.monotonic()
            logger.exception("model %s could not be loaded", self.id)
            raise
        embedder = self.embedder = loaded.embedder
        self.dimension, self.bytes = loaded.dimension, loaded.bytes
        self.provenance, self.dtype_error = loaded.provenance, loaded.dtype_error
        self.loaded_at, self.last_used = time.time(), time.monotonic()
        self._load_seconds = loaded.seconds
        self._metrics.load_seconds.labels(self.id).set(loaded.seconds)
        self._batches = BatchLoop(self.id, embedder, self._budget(), self._service, self._thread, self._metrics)
        if excess := self._make_room(self):
            logger.warning("the models in use exceed memory_budget_bytes by %d", excess)
        return embedder

    def _budget(self) -> int:
        assert self.embedder is not None
        return self.settings.batch_cost or self.embedder.processor.batch_cost

    def unload(self) -> None:
        """Let go of the model of an idle lane; the next request loads it again."""
        assert self.idle
        if self._batches is not None:
            self._batches.stop()
        self._forget()
        self.embedder = self._load_task = self._batches = self._reference = None

    def _forget(self) -> None:
        if self._readable is not None:
            self._pool.remove(self._readable)
        self._readable = None

    def update(self, settings: ModelSettings, service: ServiceSettings) -> None:
        """Go on under other settings that leave the weights as they are."""
        self.settings, self._service = settings, service
        self.admission.update(settings, service)
        if settings.id != self.id:
            self._rename(settings.id)
        if self._batches is not None:
            self._batches.service = service
            self._batches.room.budget = self._budget()

    def _rename(self, name: str) -> None:
        """Go on under another id: a canary takes its model's place, or gives it back."""
        self.id = name
        self._metrics.load_seconds.labels(name).set(self._load_seconds)
        if self._batches is not None:
            self._batches.rename(name)

    # --- requests ----------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Requests waiting or in work."""
        return self.admission.pending

    @property
    def idle(self) -> bool:
        """Whether nobody waits for the model and no batch is in it; a batch may outlast the requests it was for."""
        return not self.pending and not (self._batches is not None and self._batches.busy)

    async def run(
        self,
        inputs: Sequence[Input],
        *,
        task: str | None = None,
        pooling: str | None = None,
        layer: Layer = None,
        kind: str = "input",
        call: Call | None = None,
        sanity: str | None = None,
    ) -> list[list[Output | Refused]]:
        """Take one request through all stages.

        Args:
            inputs: Its inputs.
            task: One of the model's further tasks, or ``None`` for embeddings.
            pooling: See `hub.embedder.Embedder.embed`.
            layer: See there.
            kind: Name of the request's field that holds the inputs, for messages.
            call: The request; the time of its stages is noted there.
            sanity: What to say of each sample beside its vector; see `serving.schemas.Options`.

        Returns:
            For each input the outputs of its samples, in order; of an input that can be used in part, also what cannot.

        Raises:
            Overloaded: As many requests as are allowed are waiting already.
            UnsupportedOption: The model does not offer the task, pooling or layer.
            InputFailed: One of the inputs cannot be used, or the model failed on it.
            Unavailable: The model could not be loaded, or the service stops.
        """
        self.admission.enter()
        try:
            embedder = await self.loaded()
            readable = self._readable
            assert readable is not None
            work = resolve_work(embedder, task=task, pooling=pooling, layer=layer)
            if call is not None:
                call.provenance, call.work = self.provenance, work
            vicinity = await self._vicinity_for(embedder, work, sanity)
            views = vicinity.views if vicinity else 0
            job = Job(work, len(inputs), kind, self._service.max_samples, call, views)
            kept_as = vicinity.cached_as if vicinity else b""
            missing = await self._cache.fill(job, inputs, self.provenance, self._pool.threads, kept_as)
            unknown = [(index, inputs[index]) for index in missing]
            parts = _split(unknown, self._pool.width)
            job.begin_reading(len(parts))
            self._jobs.add(job)
            readers = [asyncio.create_task(self._read_in_order(readable, job, part, views)) for part in parts]
            try:
                with self.admission.demand.work(size_of(len(inputs), job.call.bytes)):
                    outputs = await job.future
                for index, key in missing.items():
                    if vicinity:
                        outputs[index] = vicinity.fold(outputs[index])
                    self._cache.put(key, outputs[index])
                return outputs
            finally:
                self._jobs.discard(job)
                job.give_up()
                for reader in readers:
                    reader.cancel()
        finally:
            self._leave()

    @contextlib.asynccontextmanager
    async def stream(
        self,
        inputs: AsyncIterator[Input | HubError],
        *,
        pooling: str | None = None,
        layer: Layer = None,
        kind: str = "input",
        call: Call,
    ) -> AsyncIterator[SampleStream]:
        """Take a request through all stages whose inputs come one after another and whose rows leave as they are done.

        Args:
            inputs: Its inputs, or why one of them is none; taken when there is room for their samples.
            pooling: See `run`, as of the others.
            layer: See there.
            kind: See there.
            call: See there.

        Raises:
            Overloaded: As many requests as are allowed are waiting already.
            UnsupportedOption: The model does not offer the pooling or layer.
            Unavailable: The model could not be loaded.
        """
        self.admission.enter()
        try:
            embedder = await self.loaded()
            readable = self._readable
            assert readable is not None
            call.provenance, call.work = self.provenance, resolve_work(embedder, pooling=pooling, layer=layer)
            stream = SampleStream(call, kind)
            self._jobs.add(stream)

            async def read(job: InputJob, item: Input) -> None:
                await self._read(readable, job, [(job.index, item)])

            feeders = [asyncio.create_task(stream.feed(inputs, read)) for _ in range(self._pool.width)]
            try:
                yield stream
            finally:
                self._jobs.discard(stream)
                stream.close()
                for feeder in feeders:
                    feeder.cancel()
        finally:
            self._leave()

    def _leave(self) -> None:
        self.admission.leave()
        self.last_used = time.monotonic()
        if self.idle and self.embedder is not None:
            self._make_room(self)

    async def loaded(self) -> Embedder:
        """Return the embedder, as `ready` does, with an error that is fit for a client.

        Raises:
            Unavailable: It could not be loaded, or the service stops.
        """
        try:
            return await self.ready()
        except asyncio.CancelledError:
            if self._load_task is not None and self._load_task.cancelled():
                raise shutting_down() from None
            raise
        except Exception:
            # The reason may tell of this machine's folders, so it stays in the log.
            raise Unavailable(
                f"{self.id} could not be loaded; the server's log says why", code="model_not_loaded"
            ) from None

    async def _vicinity_for(self, embedder: Embedder, work: Work, sanity: str | None) -> Vicinity | None:
        views = views_for(sanity)
        if views is None:
            return None
        check_space(embedder, work)
        check_views(embedder, views)
        if self._reference is None:
            loop = asyncio.get_running_loop()
            self._reference = await loop.run_in_executor(self._pool.threads, reference_of, embedder)
        return Vicinity(self._reference, views)

    async def _read_in_order(self, readable: Readable, job: Job, part: Sequence[tuple[int, Input]], views: int) -> None:
        """Read some inputs when those of most requests that came before have been read."""
        assert self._batches is not None
        async with self._batches.reading_in_order():
            await self._read(readable, job, part, views)

    async def _read(self, readable: Readable, job: Job, part: Sequence[tuple[int, Input]], views: int = 0) -> None:
        """Bring the samples of some inputs into the waiting room, turn by turn."""
        batches = self._batches
        assert batches is not None
        order = Order(part, job.kind, with_data=job.work.task is not None, views=views)
        stream = self._pool.stream(readable, order)
        finished = False
        try:
            while not (finished or job.done):
                await batches.readable()
                await job.room()
                with batches.turn():
                    turn = await stream.turn()
                self._metrics.stage.labels(self.id, "read").observe(turn.seconds)
                job.call.add("read", turn.seconds)
                waiting: list[Waiting] = []
                for index, prepared in turn.prepared:
                    if isinstance(prepared, Refused):
                        job.refuse(index, prepared)
                    else:
                        waiting.append(job.add(index, prepared))
                batches.put(waiting)
                finished = turn.finished
            job.end_reading()
        except Exception as error:
            # What went wrong belongs to this request alone, whatever it was.
            job.fail(error)
        finally:
            stream.close()

    async def call_reader(self, function: str, item: Input, place: str, **options: Any) -> Any:
        """Return what a function makes of an input, where inputs are read; see `Pool.call`."""
        await self.loaded()
        assert self._readable is not None
        return await self._pool.call(function, self._readable, item, place, **options)

    # --- health and end ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise Unavailable when the lane can no longer answer."""
        batches = self._batches
        if batches is None or self.admission.closed:
            return
        if batches.stopped:
            raise Unavailable(f"{self.id} no longer takes batches", code="model_stopped")
        if batches.hangs:
            raise Unavailable(f"{self.id} has hung in one batch", code="model_hangs")

    async def close(self) -> None:
        """Take no more requests, finish those in work within the grace time, and let go of the model."""
        self.admission.closed = True
        stop = time.monotonic() + self._service.shutdown_grace_s
        while self.pending and time.monotonic() < stop:
            await asyncio.sleep(0.01)
        for job in self._jobs:
            job.fail(shutting_down())
        if self._load_task is not None:
            self._load_task.cancel()
        if self._batches is not None:
            self._batches.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._forget()
        self.embedder = None


def _split(inputs: Sequence[tuple[int, Input]], parts: int) -> list[Sequence[tuple[int, Input]]]:
    """Deal the inputs to at most ``parts`` streams."""
    return [inputs[i::parts] for i in range(min(parts, len(inputs)))]
