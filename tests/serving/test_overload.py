"""What keeps a full service useful: refusals that cost little, and requests that are read in order."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from conftest import model_of, running_app, running_engine

from serving import batch_loop
from serving.app import create_app
from serving.batch_loop import READING_AT_ONCE, BatchLoop
from serving.demand import INPUT_BYTES, UPLOAD_SECONDS, Demand, size_of
from serving.inputs import PlainValue


def test_a_full_queue_refuses_before_the_body_is_read(run):
    async def check():
        async with running_engine({"name": "dummy", "max_queued_requests": 1}) as engine:
            model = model_of(engine)
            model.gate.clear()
            waiting = asyncio.create_task(engine.embed("dummy", [PlainValue([1.0, 2.0])]))
            await asyncio.to_thread(model.entered.wait, 10)
            scope = {
                "type": "http", "method": "POST", "path": "/v1/models/dummy/embeddings", "query_string": b"",
                "headers": [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"1000000")],
            }  # fmt: skip
            sent = []

            async def receive():
                raise AssertionError("the body was asked for")

            async def send(message):
                sent.append(message)

            await create_app(engine)(scope, receive, send)
            model.gate.set()
            await waiting
            return sent

    start, body = run(check())
    assert start["status"] == 429
    assert dict(start["headers"])[b"retry-after"] == b"1"
    assert json.loads(body["body"])["error"]["code"] == "overloaded"


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def requests(demand, number, size=INPUT_BYTES):
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(demand.work(size))
        yield


def test_the_wait_is_what_waits_over_what_is_done_a_second():
    clock = Clock()
    demand = Demand(clock)
    with demand.work(size_of(1, 0)):
        assert demand.wait == 0  # nothing is known yet
        clock.now += 0.5
    clock.now += 1000  # nothing to do: tells nothing
    with requests(demand, 40):
        assert demand.wait == pytest.approx(20, rel=0.05)
        demand.expect(1)
        assert demand.wait == pytest.approx(20.5, rel=0.05) and demand.coming == 1
        clock.now += UPLOAD_SECONDS + 0.1
        assert demand.coming == 0
        demand.expect(2)
        demand.expect_no_more(2)
        assert demand.coming == 0
    # It took a quarter of what was expected, so the next ones are expected to take less.
    with requests(demand, 40):
        assert demand.wait == pytest.approx(40 * 5.6 / 41, rel=0.2)


@pytest.mark.parametrize(("number", "inputs", "wait"), [(3, 100, 0.3), (50, 1, 0.5)])
def test_of_two_reckonings_the_shorter_one_counts(number, inputs, wait):
    clock = Clock()
    demand = Demand(clock)
    with requests(demand, 10, size_of(10 if inputs == 1 else 1, 0)):
        clock.now += 1.0
    # A few large requests after small ones take less than their size tells, and many small ones than their number.
    with requests(demand, number, size_of(inputs, 0)):
        assert demand.wait == pytest.approx(wait, rel=0.1)


def test_what_was_given_up_has_not_been_done():
    clock = Clock()
    demand = Demand(clock)
    with demand.work(size_of(1, 0)):
        clock.now += 1.0
    with pytest.raises(asyncio.CancelledError), demand.work(size_of(1, 0)):
        clock.now += 9.0
        raise asyncio.CancelledError
    with demand.work(size_of(1, 0)):
        assert demand.wait > 9


def test_more_work_than_may_wait_is_refused_until_it_is_done(run):
    async def check():
        async with running_app("dummy", {"name": "other", "alias": "idle"}, max_queue_s=5) as (client, engine):
            model, lane = model_of(engine), engine.lane("dummy")
            demand = lane.admission.demand
            demand._done, demand._busy, demand._finished = INPUT_BYTES, 1.0, 1  # one input a second
            demand._done_requests = 1
            model.gate.clear()
            path, files = "/v1/models/dummy/embeddings", [[1.0, 2.0]]
            tasks = [asyncio.create_task(client.post(path, json={"input": files})) for _ in range(READING_AT_ONCE)]
            while lane.pending < READING_AT_ONCE:
                await asyncio.sleep(0.01)
            refused = await client.post(path, json={"input": files})
            assert refused.status_code == 429 and 5 <= int(refused.headers["retry-after"]) <= 12
            assert "s of work" in refused.json()["error"]["message"]
            v2 = await client.post("/v2/models/dummy/versions/1/infer", json={})
            assert v2.status_code == 429 and "s of work" in v2.json()["error"]
            # The body names the model, and the other one has room.
            assert (await client.post("/v1/embeddings", json={"model": "idle", "input": files})).status_code == 200
            assert (await client.get("/v1/models/dummy")).status_code == 200
            model.gate.set()
            assert [t.status_code for t in await asyncio.gather(*tasks)] == [200] * READING_AT_ONCE
            assert (await client.post(path, json={"input": files})).status_code == 200

    run(check())


@pytest.fixture
def loop_of(monkeypatch):
    """A batch loop whose task is of no concern here."""

    def make():
        made = object.__new__(BatchLoop)
        made._reading = asyncio.Semaphore(READING_AT_ONCE)
        return made

    return make


def test_a_few_streams_are_read_at_once_and_the_others_in_order(run, loop_of):
    async def check():
        batches, begun, gates = loop_of(), [], {n: asyncio.Event() for n in range(3 * READING_AT_ONCE)}

        async def stream(number):
            async with batches.reading_in_order():
                begun.append(number)
                await gates[number].wait()

        tasks = [asyncio.create_task(stream(n)) for n in gates]
        await asyncio.sleep(0.01)
        assert begun == list(range(READING_AT_ONCE))
        # One that waits gives up; one that is read comes to its end.
        tasks[READING_AT_ONCE].cancel()
        gates[3].set()
        await asyncio.sleep(0.01)
        assert begun == [*range(READING_AT_ONCE), READING_AT_ONCE + 1]
        for gate in gates.values():
            gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert begun == [n for n in gates if n != READING_AT_ONCE]
        assert batches._reading._value == READING_AT_ONCE

    run(check())


def test_a_stream_that_takes_long_lets_others_begin(run, loop_of, monkeypatch):
    monkeypatch.setattr(batch_loop, "LONGEST_FIRST", 0.05)

    async def check():
        batches, end = loop_of(), asyncio.Event()

        async def capture():
            async with batches.reading_in_order():
                await end.wait()

        long = [asyncio.create_task(capture()) for _ in range(READING_AT_ONCE)]
        await asyncio.sleep(0)
        async with asyncio.timeout(5), batches.reading_in_order():
            pass
        end.set()
        await asyncio.gather(*long)
        # Every place was given back once.
        assert batches._reading._value == READING_AT_ONCE

    run(check())
