from __future__ import annotations

import asyncio
import json
import math
import random
import statistics

import numpy as np
import pytest

from benchmarks.serving.figures import arrivals, growth, percentile, percentiles, ratio_of_medians, spread, table
from benchmarks.serving.loadclient import Answer, Connection, Load, largest_difference
from hub.batching import batches_by_cost
from serving.batching import MAX_PADDING


def test_a_percentile_is_a_value_that_was_measured():
    values = [float(n) for n in range(1, 201)]
    random.Random(0).shuffle(values)
    assert percentiles(values) == {"p50": 100.0, "p95": 190.0, "p99": 198.0}
    assert percentile(values, 100) == 200.0
    assert percentile(values, 0.1) == 1.0
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


def test_ratios_are_of_medians_with_the_spread_within_rounds():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    found = ratio_of_medians([10.0, 20.0, 60.0], [10.0, 10.0, 20.0])
    assert found == {"median": 2.0, "lowest": 1.0, "highest": 3.0}


def test_arrivals_come_at_the_rate_that_was_asked_for_and_not_in_step():
    due = arrivals(50.0, 100.0, seed=3)
    gaps = np.diff(due)
    assert due == sorted(due) and 0 < due[0] and due[-1] < 100
    assert abs(len(due) - 5_000) < 4 * math.sqrt(5_000)
    # The gaps of a Poisson process deviate as much as they last.
    assert 0.9 < statistics.stdev(gaps) / statistics.mean(gaps) < 1.1
    assert due == arrivals(50.0, 100.0, seed=3) != arrivals(50.0, 100.0, seed=4)


def test_growth_is_that_of_the_line_and_leaves_out_the_start():
    flat = [(float(t), 100.0 if t >= 20 else t * 5.0) for t in range(100)]
    assert growth(flat, 20.0) == pytest.approx(0.0)
    rising = [(float(t), 100.0 + t) for t in range(101)]
    assert growth(rising, 50.0) == pytest.approx(50 / 150)
    # One peak is no growth.
    assert growth([*flat[:60], (60.0, 150.0), *flat[61:]], 20.0) < 0.01


def test_a_table_has_a_line_a_row_and_numbers_to_the_right():
    lines = table([{"name": "a", "value": 1.5}, {"name": "bb", "value": 1234.5}]).splitlines()
    assert lines == ["name  value", "a       1.5", "bb     1234"]


class Service(asyncio.Protocol):
    """Answers with two numbers, after a while, and closes the connection after each third answer."""

    delay = 0.0
    connections = 0
    answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        Service.connections += 1

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self.delay, self._answer)

    def _answer(self) -> None:
        Service.answered += 1
        body = b'{"data": [{"embedding": [1.0, 2.0]}]}'
        close = b"Connection: close\r\n" if Service.answered % 3 == 0 else b""
        if Service.answered % 2:
            head = f"Content-Length: {len(body)}\r\n".encode()
        else:
            head, body = b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        self.transport.write(b"HTTP/1.1 200 OK\r\n" + head + close + b"\r\n" + body)
        if close:
            self.transport.close()


@pytest.fixture
def service(run):
    """Run a coroutine function beside the service; it gets the port."""

    def runner(work, delay=0.0):
        async def both():
            Service.delay, Service.connections, Service.answered = delay, 0, 0
            server = await asyncio.get_running_loop().create_server(Service, "127.0.0.1", 0)
            async with server:
                return await work(server.sockets[0].getsockname()[1])

        return run(both())

    return runner


@pytest.fixture
def run():
    return lambda work: asyncio.run(asyncio.wait_for(work, 30))


def test_a_connection_is_kept_opened_anew_and_reads_both_kinds_of_bodies(service):
    async def work(port):
        connection = Connection("127.0.0.1", port)
        answers = [await connection.ask(b"POST / HTTP/1.1\r\n\r\n") for _ in range(6)]
        connection.close()
        return answers

    answers = service(work)
    assert [status for status, _, _ in answers] == [200] * 6
    assert all(json.loads(content)["data"] for _, _, content in answers)
    assert Service.connections == 2


def plan(tmp_path, port, **how):
    body = tmp_path / "body"
    body.write_bytes(b"x")
    np.save(tmp_path / "expected.npy", np.array([[1.0, 2.0]], np.float32))
    return {
        "url": f"http://127.0.0.1:{port}/embed",
        "bodies": [{"file": str(body), "content_type": "text/plain", "clips": [0]}],
        "answer": ["data", "embedding"],
        "expected": str(tmp_path / "expected.npy"),
        **how,
    }


def test_in_an_open_loop_arrivals_do_not_wait_for_answers_and_time_counts_from_when_they_were_due(service, tmp_path):
    async def work(port):
        load = Load(plan(tmp_path, port, rate=60.0, seconds=0.5))
        return load, await load.run()

    load, seconds = service(work, delay=0.4)
    sent = len(arrivals(60.0, 0.5))
    assert len(load.answers) == sent == Service.answered
    # One after another they would take 0.4 s each.
    assert seconds < 3.0
    assert min(a.seconds for a in load.answers) >= 0.39


def test_in_a_closed_loop_each_client_waits_for_its_answer_and_sends_at_least_two(service, tmp_path):
    async def work(port):
        load = Load(plan(tmp_path, port, clients=3, seconds=0.01))
        await load.run()
        return load

    load = service(work, delay=0.05)
    assert len(load.answers) == 6
    assert largest_difference(load.answers, load._plan) == 0.0


def test_a_wrong_number_or_a_missing_vector_is_seen(tmp_path):
    of = plan(tmp_path, 1)
    wrong = Answer(0, 200, 0.1, 0.1, b'{"data": [{"embedding": [1.0, 2.1]}]}')
    missing = Answer(0, 200, 0.1, 0.1, b'{"data": []}')
    assert largest_difference([wrong], of) == pytest.approx(0.05)
    assert largest_difference([missing], of) == float("inf")


def test_batches_hold_little_padding_unless_it_is_cheaper_than_one_more_forward():
    costs = [10, 12, 90, 95, 100, 11, 99]
    plain = batches_by_cost(costs, 1_000)
    dense = batches_by_cost(costs, 1_000, max_padding=MAX_PADDING)
    assert plain == [[0, 5, 1, 2, 3, 6, 4]]
    assert sorted(map(sorted, dense)) == [[0, 1, 5], [2, 3, 4, 6]]
    # Of a budget of 32,000 these 363 are a small part: splitting would cost more than it saves.
    assert batches_by_cost(costs, 32_000, max_padding=MAX_PADDING) == plain
