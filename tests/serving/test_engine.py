from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from arithmetic import POISON, expected, file_of
from conftest import model_of, running_engine, settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hub.errors import InvalidInput, UnknownModel, UnsupportedOption
from serving.engine import Engine
from serving.errors import BodyTooLarge, InputFailed, InvalidSettings, Overloaded, ReaderFailed, Unavailable
from serving.inputs import EncodedFile, PlainValue, UploadedFile


def plain(*samples: list[float]) -> list[PlainValue]:
    return [PlainValue(list(s)) for s in samples]


def vectors(outputs: Any) -> np.ndarray:
    return np.stack([o.value for per_input in outputs for o in per_input])


numbers = st.lists(st.integers(-100, 100).map(float), min_size=1, max_size=60)
files = st.lists(numbers, min_size=1, max_size=5)


@hypothesis_settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.one_of(numbers, files), min_size=1, max_size=6), min_size=1, max_size=12))
def test_every_request_gets_its_own_answers_in_order(requests: list[list[Any]]) -> None:
    async def main() -> None:
        async with running_engine() as engine:

            async def one(entries: list[Any]) -> None:
                inputs: list[Any] = []
                wanted: list[list[Any]] = []
                for entry in entries:
                    samples = entry if isinstance(entry[0], list) else [entry]
                    wanted.append(samples)
                    is_file = isinstance(entry[0], list)
                    inputs.append(UploadedFile(file_of(*entry), "a.num") if is_file else PlainValue(entry))
                outputs = await engine.embed("dummy", inputs)
                assert [len(o) for o in outputs] == [len(w) for w in wanted]
                for per_input, samples, item in zip(outputs, wanted, inputs, strict=True):
                    for number, (output, sample) in enumerate(zip(per_input, samples, strict=True)):
                        np.testing.assert_allclose(output.value, expected(sample), rtol=1e-5)
                        assert output.key == (f"s{number}" if isinstance(item, UploadedFile) else "")
                        assert output.cost == len(sample)

            await asyncio.gather(*(one(entries) for entries in requests))

    asyncio.run(main())


def test_many_concurrent_requests_share_batches(run: Any) -> None:
    async def main() -> None:
        rng = np.random.default_rng(0)
        requests = [rng.normal(size=rng.integers(1, 40)).tolist() for _ in range(200)]
        async with running_engine({"name": "dummy", "max_queued_requests": 1000}) as engine:
            model_of(engine).delay = 0.005
            answers = await asyncio.gather(*(engine.embed("dummy", plain(r)) for r in requests))
            for request, outputs in zip(requests, answers, strict=True):
                np.testing.assert_allclose(vectors(outputs)[0], expected(request), rtol=1e-4, atol=1e-6)
            batches = model_of(engine).batches
            assert sum(batches) == 200
            assert len(batches) < 60

    run(main())


def test_a_batch_stays_within_its_cost_and_padding_is_little(run: Any) -> None:
    async def main() -> None:
        rng = np.random.default_rng(1)
        lengths = rng.choice([5, 100], size=80)
        async with running_engine() as engine:
            model, seen = model_of(engine), []
            forward = model.forward

            def spy(values: Any, mask: Any, **options: Any) -> Any:
                seen.append((values.numel(), int(mask.sum())))
                return forward(values, mask, **options)

            model.forward = spy
            await engine.embed("dummy", plain(*[[1.0] * n for n in lengths]))
            assert all(padded <= 400 for padded, _ in seen)
            # The first batch may go before all was read; over all of them padding stays small.
            assert sum(real for _, real in seen) >= 0.8 * sum(padded for padded, _ in seen)

    run(main())


def test_batch_cost_can_be_set_and_a_long_sample_still_passes(run: Any) -> None:
    async def main() -> None:
        async with running_engine({"name": "dummy", "batch_cost": 10}) as engine:
            outputs = await engine.embed("dummy", plain([1.0] * 300, [2.0] * 5, [3.0] * 5))
            np.testing.assert_allclose(vectors(outputs)[:, 0], [1, 2, 3])
            assert max(model_of(engine).batches) <= 2

    run(main())


def test_an_idle_model_does_not_wait(run: Any) -> None:
    async def main() -> None:
        async with running_engine(max_wait_ms=1000) as engine:
            await engine.embed("dummy", plain([1.0]))
            started = time.perf_counter()
            await engine.embed("dummy", plain([1.0]))
            assert time.perf_counter() - started < 0.5

    run(main())


def test_reading_goes_on_while_the_model_computes(run: Any) -> None:
    async def main() -> None:
        async with running_engine() as engine:
            model = model_of(engine)
            model.gate.clear()
            first = asyncio.create_task(engine.embed("dummy", plain([1.0])))
            await asyncio.to_thread(model.entered.wait, 5)
            others = [asyncio.create_task(engine.embed("dummy", plain([float(n)]))) for n in range(10)]
            waiting = engine.metrics.queued_samples.labels("dummy")
            while waiting._value.get() < 10:
                await asyncio.sleep(0.005)
            model.gate.set()
            answers = [await first, *(await asyncio.gather(*others))]
            assert [vectors(a)[0, 0] for a in answers] == [1, *range(10)]
            assert model.batches == [1, 10]

    run(main())


def test_reading_pauses_when_far_ahead_of_the_model(run: Any) -> None:
    async def main() -> None:
        async with running_engine({"name": "dummy", "batch_cost": 10}) as engine:
            model = model_of(engine)
            model.gate.clear()
            big = UploadedFile(file_of(*[[float(n % 100)] * 2 for n in range(16000)]), "big.num")
            task = asyncio.create_task(engine.embed("dummy", [big]))
            waiting = engine.metrics.queued_samples.labels("dummy")
            while not waiting._value.get():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert waiting._value.get() < 8000
            task.cancel()
            model.gate.set()

    run(main())


def test_options_separate_batches_and_defaults_join_them(run: Any) -> None:
    async def main() -> None:
        async with running_engine() as engine:
            model = model_of(engine)
            model.gate.clear()
            first = asyncio.create_task(engine.embed("dummy", plain([9.0])))
            await asyncio.to_thread(model.entered.wait, 5)
            tasks = [
                asyncio.create_task(engine.embed("dummy", plain([1.0, 3.0]), **options))
                for options in ({}, {"pooling": "mean"}, {"layer": -1}, {"pooling": "max"}, {"layer": 0})
            ]
            await asyncio.sleep(0.1)
            model.gate.set()
            await first
            mean, named, last, largest, negative = [vectors(o)[0] for o in await asyncio.gather(*tasks)]
            assert mean[0] == named[0] == last[0] == 2 and largest[0] == 3 and negative[0] == -2
            assert sorted(model.batches) == [1, 1, 1, 3]

    run(main())


def test_token_states_and_concatenated_layers(run: Any) -> None:
    async def main() -> None:
        async with running_engine() as engine:
            tokens = await engine.embed("dummy", plain([1.0, 2.0, 3.0], [4.0]), pooling="none")
            assert [o[0].value.shape for o in tokens] == [(3, 4), (1, 4)]
            assert tokens[0][0].value[:, 0].tolist() == [1, 2, 3]
            both = await engine.embed("dummy", plain([1.0]), layer="all")
            assert both[0][0].value.tolist()[0] == -1 and both[0][0].value.shape == (8,)
            with pytest.raises(UnsupportedOption):
                await engine.embed("dummy", plain([1.0]), pooling="median")
            with pytest.raises(UnsupportedOption):
                await engine.embed("dummy", plain([1.0]), layer=7)

    run(main())


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (PlainValue([]), "too_short"),
        (PlainValue("1 two"), "no_number"),
        (PlainValue({"no": "form"}), "invalid_input"),
        (PlainValue([1e30]), "embedding_not_finite"),
        (UploadedFile(b"", "a.num"), "empty_input"),
        (UploadedFile(b"RIFF", "a.num"), "unsupported_format"),
        (UploadedFile(file_of(), "a.num"), "no_samples"),
        (UploadedFile(file_of([1.0] * 6000), "a.num"), "too_large"),
        (EncodedFile("no base64!", None), "invalid_base64"),
        (EncodedFile("Zg=", None), "invalid_base64"),
    ],
)
def test_a_bad_input_fails_its_own_request_and_is_named(bad: Any, code: str, run: Any) -> None:
    async def main() -> None:
        async with running_engine() as engine:
            good = [asyncio.create_task(engine.embed("dummy", plain([float(n)]))) for n in range(20)]
            with pytest.raises(InputFailed) as failure:
                await engine.embed("dummy", [*plain([1.0], [2.0], [3.0]), bad, *plain([4.0])])
            assert failure.value.param == "input[3]"
            assert isinstance(failure.value.cause, InvalidInput) and failure.value.cause.code == code
            answers = await asyncio.gather(*good)
            assert [vectors(a)[0, 0] for a in answers] == list(range(20))

    run(main())


def test_a_text_is_never_taken_for_a_path(run: Any, tmp_path: Any) -> None:
    async def main() -> None:
        secret = tmp_path / "secret.num"
        secret.write_bytes(file_of([1.0]))
        async with running_engine() as engine:
            with pytest.raises(InputFailed) as failure:
                await engine.embed("dummy", [PlainValue(str(secret))])
            assert failure.value.cause.code == "no_number"

    run(main())


def test_when_a_batch_fails_only_the_culprit_does(run: Any) -> None:
    async def main() -> None:
        async with running_engine() as engine:
            model = model_of(engine)
            model.gate.clear()
            first = asyncio.create_task(engine.embed("dummy", plain([0.5])))
            await asyncio.to_thread(model.entered.wait, 5)
            good = [asyncio.create_task(engine.embed("dummy", plain([float(n)]))) for n in range(8)]
            bad = asyncio.create_task(engine.embed("dummy", plain([1.0], [POISON], [2.0])))
            await asyncio.sleep(0.1)
            model.gate.set()
            await first
            with pytest.raises(InputFailed) as failure:
                await bad
            assert failure.value.param == "input[1]"
            assert isinstance(failure.value.cause, RuntimeError)
            assert [vectors(a)[0, 0] for a in await asyncio.gather(*good)] == list(range(8))
            assert model.batches[:2] == [1, 11] and set(model.batches[2:]) == {1}
            # And the model goes on.
            assert vectors(await engine.embed("dummy", plain([3.0])))[0, 0] == 3

    run(main())


def test_an_unforeseen_error_in_preparing_fails_its_own_request(run: Any) -> None:
    async def main() -> None:
        async with running_engine() as engine:
            with pytest.raises(InputFailed) as failure:
                await engine.embed("dummy", plain([1.0], [404.0]))
            assert isinstance(failure.value.cause, KeyError | ReaderFailed) and failure.value.param == "input[1]"
            assert vectors(await engine.embed("dummy", plain([3.0])))[0, 0] == 3

    run(main())


def test_cancelled_requests_never_reach_the_model(run: Any) -> None:
    async def main() -> None:
        async with running_engine() as engine:
            model = model_of(engine)
            model.gate.clear()
            first = asyncio.create_task(engine.embed("dummy", plain([1.0])))
            await asyncio.to_thread(model.entered.wait, 5)
            dropped = [asyncio.create_task(engine.embed("dummy", plain([float(n)]))) for n in range(10)]
            kept = asyncio.create_task(engine.embed("dummy", plain([77.0])))
            await asyncio.sleep(0.1)
            for task in dropped:
                task.cancel()
            await asyncio.gather(*dropped, return_exceptions=True)
            model.gate.set()
            assert vectors(await kept)[0, 0] == 77
            await first
            assert model.batches == [1, 1]
            assert engine.lane("dummy").pending == 0

    run(main())


def test_a_request_past_its_time_is_given_up(run: Any) -> None:
    async def main() -> None:
        async with running_engine(request_timeout_s=0.2) as engine:
            model = model_of(engine)
            model.gate.clear()
            with pytest.raises(Unavailable) as failure:
                await engine.embed("dummy", plain([1.0]))
            assert failure.value.code == "timeout"
            await asyncio.sleep(0.1)
            with pytest.raises(Unavailable) as hung:
                engine.check()
            assert hung.value.code == "model_hangs"
            model.gate.set()
            assert vectors(await engine.embed("dummy", plain([2.0])))[0, 0] == 2
            engine.check()

    run(main())


def test_a_full_queue_refuses_and_recovers(run: Any) -> None:
    async def main() -> None:
        async with running_engine({"name": "dummy", "max_queued_requests": 3}) as engine:
            model = model_of(engine)
            model.gate.clear()
            tasks = [asyncio.create_task(engine.embed("dummy", plain([float(n)]))) for n in range(3)]
            await asyncio.sleep(0.05)
            with pytest.raises(Overloaded) as refusal:
                await engine.embed("dummy", plain([9.0]))
            assert refusal.value.retry_after >= 1
            model.gate.set()
            assert [vectors(a)[0, 0] for a in await asyncio.gather(*tasks)] == [0, 1, 2]
            assert vectors(await engine.embed("dummy", plain([9.0])))[0, 0] == 9

    run(main())


def test_too_many_samples_in_one_request(run: Any) -> None:
    async def main() -> None:
        async with running_engine(max_samples=10) as engine:
            with pytest.raises(BodyTooLarge) as refusal:
                await engine.embed("dummy", [UploadedFile(file_of(*[[1.0]] * 11), "a.num")])
            assert refusal.value.code == "too_many_samples"

    run(main())


def test_a_model_is_warmed_before_it_is_ready(run: Any) -> None:
    async def main() -> None:
        engine = Engine(settings("unready"))
        embedders = []
        factory = engine.lane("unready")._factory
        engine.lane("unready")._factory = lambda *a, **k: embedders.append(factory(*a, **k)) or embedders[0]
        engine.start()
        await asyncio.sleep(0.2)
        assert engine.lane("unready").state == "loading" and not engine.ready
        early = asyncio.create_task(engine.embed("unready", plain([5.0])))
        await asyncio.sleep(0.05)
        assert not early.done()
        embedders[0].warm_up_gate.set()
        await engine.wait_ready()
        assert engine.ready and embedders[0].warmed and engine.lane("unready").dimension == 4
        assert vectors(await early)[0, 0] == 5
        await engine.close()
        assert not engine.ready

    run(main())


def test_a_lazy_model_loads_once_at_its_first_use(run: Any) -> None:
    async def main() -> None:
        async with running_engine("dummy", {"name": "lazy-slow", "load": "first_use"}) as engine:
            assert engine.ready and engine.lane("lazy-slow").state == "not_loaded"
            answers = await asyncio.gather(*(engine.embed("lazy-slow", plain([float(n)])) for n in range(5)))
            assert [vectors(a)[0, 0] for a in answers] == list(range(5))
            assert engine.lane("lazy-slow").state == "ready"

    run(main())


def test_a_model_that_cannot_load_says_so_without_details(run: Any) -> None:
    async def main() -> None:
        async with running_engine("dummy", {"name": "missing", "load": "first_use"}) as engine:
            for _ in range(2):
                with pytest.raises(Unavailable) as failure:
                    await engine.embed("missing", plain([1.0]))
                assert "/home" not in str(failure.value)
            assert vectors(await engine.embed("dummy", plain([1.0])))[0, 0] == 1
        broken = Engine(settings("missing"))
        with pytest.raises(UnknownModel):
            await broken.wait_ready()
        assert not broken.ready
        await broken.close()

    run(main())


def test_unknown_model_lists_what_there_is(run: Any) -> None:
    async def main() -> None:
        async with running_engine("dummy", "org/other") as engine:
            with pytest.raises(UnknownModel, match="dummy, org/other"):
                await engine.embed("nope", plain([1.0]))

    run(main())


def test_tasks(run: Any) -> None:
    async def main() -> None:
        async with running_engine() as engine:
            outputs = await engine.run("dummy", "total", plain([1.0, 2.0], [3.0]))
            assert [o[0].value for o in outputs] == [{"total": 3.0}, {"total": 3.0}]
            with pytest.raises(UnsupportedOption):
                await engine.run("dummy", "fly", plain([1.0]))
            with pytest.raises(InputFailed):
                await engine.run("dummy", "broken", plain([1.0]))

    run(main())


def test_closing_finishes_what_is_in_work_and_refuses_the_rest(run: Any) -> None:
    async def main() -> None:
        async with running_engine() as engine:
            model_of(engine).delay = 0.1
            work = asyncio.create_task(engine.embed("dummy", plain([1.0])))
            await asyncio.sleep(0.03)
            await engine.close()
            assert vectors(await work)[0, 0] == 1
            with pytest.raises(Unavailable):
                await engine.embed("dummy", plain([1.0]))
            with pytest.raises(Unavailable):
                engine.check()

    run(main())


def test_closing_does_not_wait_for_a_hung_model(run: Any) -> None:
    async def main() -> None:
        async with running_engine(shutdown_grace_s=0.1) as engine:
            model = model_of(engine)
            model.gate.clear()
            work = asyncio.create_task(engine.embed("dummy", plain([1.0])))
            await asyncio.to_thread(model.entered.wait, 5)
            await engine.close()
            with pytest.raises(Unavailable):
                await work
            model.gate.set()

    run(main())


def test_models_come_and_go_without_disturbing_the_others(run: Any) -> None:
    async def main() -> None:
        async with running_engine("dummy", "old") as engine:
            stays = engine.lane("dummy").embedder
            model_of(engine, "old").delay = 0.1
            last = asyncio.create_task(engine.embed("old", plain([1.0])))
            await asyncio.sleep(0.03)
            changed = settings({"name": "dummy", "batch_cost": 7, "max_queued_requests": 5}, "new")
            await engine.apply(changed)
            assert set(engine.lanes) == {"dummy", "new"} and engine.ready
            assert engine.lane("dummy").embedder is stays
            assert engine.lane("dummy").settings.max_queued_requests == 5
            assert vectors(await last)[0, 0] == 1
            assert vectors(await engine.embed("new", plain([2.0])))[0, 0] == 2
            with pytest.raises(UnknownModel):
                await engine.embed("old", plain([1.0]))
            with pytest.raises(UnknownModel):
                await engine.apply(settings("dummy", "missing"))
            assert set(engine.lanes) == {"dummy", "new"}
            with pytest.raises(InvalidSettings, match="restart"):
                await engine.apply(settings("dummy", reader_workers=1))

    run(main())
