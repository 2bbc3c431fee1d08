from __future__ import annotations

import asyncio
import hmac
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from certificates import self_signed
from conftest import running_app, settings
from typer.testing import CliRunner

from serving.access import Gate, RateLimits
from serving.addresses import check_tls
from serving.config import TLSSettings, check_settings, is_loopback
from serving.errors import InvalidSettings
from serving.keys import KeyRing, hash_of, new_key

ALICE, BOB = new_key(), new_key()
KEYS = [
    {"name": "alice", "hash": hash_of(ALICE)},
    {"name": "bob", "hash": hash_of(BOB), "models": ["org/*"]},
]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_a_valid_key_nothing_is_told(run: Any) -> None:
    async def main() -> None:
        async with running_app("dummy", "org/other", keys=KEYS) as (client, _):
            paths = ["/v1/models", "/v1/models/dummy", "/openapi.json", "/metrics", "/nope"]
            refused = [await client.get(p) for p in paths]
            refused += [await client.post("/v1/embeddings", json={"model": "dummy", "input": "1"})]
            for answer in refused:
                assert answer.status_code == 401 and answer.json()["error"]["code"] == "missing_api_key"
                assert answer.headers["www-authenticate"] == 'Bearer realm="fmhub"'
                assert "dummy" not in answer.text and answer.headers["x-request-id"]
            wrong = await client.get("/v1/models", headers=bearer(ALICE[:-1]))
            assert wrong.status_code == 401 and wrong.json()["error"]["code"] == "invalid_api_key"
            assert wrong.json()["error"]["type"] == "authentication_error"
            assert 'error="invalid_token"' in wrong.headers["www-authenticate"] and ALICE[:-1] not in wrong.text
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            assert (await client.get("/readyz")).json() == {"status": "ready"}
            for scheme in ("Bearer", "bearer", "BEARER"):
                listed = await client.get("/v1/models", headers={"Authorization": f"{scheme} {ALICE}"})
                assert len(listed.json()["data"]) == 2

    run(main())


def test_a_key_uses_and_sees_only_its_models(run: Any) -> None:
    async def main() -> None:
        async with running_app("dummy", "org/other", keys=KEYS) as (client, _):
            client.headers.update(bearer(BOB))
            assert [m["id"] for m in (await client.get("/v1/models")).json()["data"]] == ["org/other"]
            assert (await client.post("/v1/embeddings", json={"model": "org/other", "input": "1"})).status_code == 200
            # Whether a model outside of the key's scope exists is not told.
            for model in ("dummy", "nope"):
                body = {"model": model, "input": "1"}
                for answer in (
                    await client.post("/v1/embeddings", json=body),
                    await client.post(f"/v1/models/{model}/embeddings", json={"input": "1"}),
                    await client.post(f"/v1/models/{model}/total", json={"input": "1"}),
                    await client.get(f"/v1/models/{model}"),
                ):
                    assert answer.status_code == 403, answer.text
                    problem = answer.json()["error"]
                    assert problem["type"] == "permission_error" and problem["param"] == "model"
                    assert problem["message"] == f"this key may not use the model {model!r}"
            unknown = await client.post("/v1/embeddings", json={"model": "org/none", "input": "1"})
            assert unknown.status_code == 404 and "dummy" not in unknown.text and "org/other" in unknown.text
            # The route that a model's path hides is no way round.
            assert (await client.get("/v1/models/dummy/embeddings")).status_code == 403

    run(main())


def test_a_key_is_revoked_and_added_by_its_file(run: Any, tmp_path: Path, caplog: Any) -> None:
    file = tmp_path / "keys.yaml"

    def write(*entries: Any) -> None:
        file.write_text(yaml.safe_dump(list(entries)))
        # A file system's clock may be coarser than a test is fast.
        os.utime(file, ns=(0, next(ticks) * 10**9))

    ticks = iter(range(1, 100))
    carol = new_key()
    write(*KEYS)

    async def main() -> None:
        async with running_app(keys_file=str(file)) as (client, _):

            async def status(key: str) -> int:
                return (await client.get("/v1/models", headers=bearer(key))).status_code

            assert [await status(k) for k in (ALICE, BOB, carol)] == [200, 200, 401]
            write(KEYS[0], {"name": "carol", "hash": hash_of(carol)})
            assert [await status(k) for k in (ALICE, BOB, carol)] == [200, 401, 200]
            # A damaged or missing file changes nothing, is reported once, and its content stays out of the log.
            file.write_text(f"- {{name: dave, hash: {BOB}")
            assert [await status(k) for k in (ALICE, BOB, carol)] == [200, 401, 200]
            write({"name": "dave", "hash": "md5:0"})
            assert await status(ALICE) == 200
            file.unlink()
            assert await status(ALICE) == 200
            errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
            assert len(errors) == 3 and BOB not in caplog.text and "keys.yaml[0].hash" in errors[1]
            # An empty list is a rule as well: nobody.
            write()
            assert [await status(k) for k in (ALICE, carol)] == [401, 401]
            assert (await client.get("/v1/models")).status_code == 401

    run(main())


def test_a_key_has_a_rate_of_its_own(run: Any) -> None:
    keys = [{**KEYS[0], "requests_per_minute": 3}, KEYS[1]]

    async def main() -> None:
        async with running_app("dummy", "org/other", keys=keys) as (client, _):
            answers = [await client.get("/v1/models", headers=bearer(ALICE)) for _ in range(5)]
            assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
            assert answers[3].json()["error"]["code"] == "rate_limited"
            assert 1 <= int(answers[3].headers["retry-after"]) <= 20
            assert (await client.get("/v1/models", headers=bearer(BOB))).status_code == 200

    run(main())


def test_the_bucket_refills_steadily_and_no_further_than_a_minute() -> None:
    rates = RateLimits()
    assert [rates.take("a", 6, 0.0) for _ in range(6)] == [0] * 6
    assert rates.take("a", 6, 0.0) == pytest.approx(10)
    assert rates.take("a", 6, 9.0) == pytest.approx(1)
    assert rates.take("a", 6, 10.0) == 0 and rates.take("a", 6, 10.0) == pytest.approx(10)
    assert [rates.take("a", 6, 10_000.0) > 0 for _ in range(7)] == [False] * 6 + [True]


def test_every_entry_is_compared_wherever_the_match_is(monkeypatch: Any) -> None:
    ring = KeyRing(settings(keys=KEYS))
    seen: list[str] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append(a) or compare(a, b))
    for token, name in ((ALICE, "alice"), (BOB, "bob"), ("wrong", None), ("", None)):
        seen.clear()
        found = ring.find(token)
        assert (found.name if found else None) == name and seen == [k["hash"] for k in KEYS]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer " + ALICE.encode()), (b"authorization", b"Bearer x")],
        [(b"authorization", b"Bearer \xff\xfe\r\nX-Admin: 1")],
        [(b"authorization", b"Bearer " + ALICE.encode() + b"\r\nX-Admin: 1")],
        [(b"authorization", b"Bearer " + b"x" * 100_000)],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer  ")],
        [(b"authorization", b"Basic " + ALICE.encode())],
        [(b"authorization", ALICE.encode())],
        [(b"authorization", b"")],
        [(b"x-api-key", ALICE.encode())],
        [(b"cookie", b"authorization=Bearer " + ALICE.encode())],
    ],
)
def test_headers_that_are_no_key(headers: list[tuple[bytes, bytes]]) -> None:
    sent: list[Any] = []

    async def app(*_: Any) -> None:
        raise AssertionError("let in")

    async def send(message: Any) -> None:
        sent.append(message)

    chosen = settings(keys=KEYS)
    scope: dict[str, Any] = {"type": "http", "path": "/v1/models", "headers": headers}
    asyncio.run(Gate(app, lambda: chosen, KeyRing(chosen))(scope, None, send))
    assert sent[0]["status"] == 401
    # What the client sent is nowhere in the answer.
    assert b"X-Admin" not in b"".join(n + v for n, v in sent[0]["headers"]) + sent[1]["body"]


def test_a_prefix_changes_nothing_about_what_is_open() -> None:
    passed: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        passed.append(scope["path"])

    async def send(_: Any) -> None:
        pass

    chosen = settings(keys=KEYS)
    gate = Gate(app, lambda: chosen, KeyRing(chosen))
    for path in ("/fm/healthz", "/fm/v1/models", "/fm/healthz/", "/fm/x/healthz", "/other/healthz"):
        asyncio.run(gate({"type": "http", "path": path, "root_path": "/fm", "headers": []}, None, send))
    assert passed == ["/fm/healthz"]


def test_metrics_can_be_open_and_keys_can_change_while_running(run: Any) -> None:
    async def main() -> None:
        async with running_app(keys=KEYS, metrics_access="open") as (client, engine):
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.get("/v1/models", headers=bearer(ALICE))).status_code == 200
            await engine.apply(settings(keys=KEYS[1:]))
            assert (await client.get("/metrics")).status_code == 401
            assert (await client.get("/v1/models", headers=bearer(ALICE))).status_code == 401
            with pytest.raises(InvalidSettings, match="No such file"):
                await engine.apply(settings(keys_file="/nowhere/keys.yaml"))
            with pytest.raises(InvalidSettings, match="restart"):
                await engine.apply(settings(cors_origins=["*"]))

    run(main())


def test_without_keys_only_this_machine_may_ask() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(InvalidSettings, match="no key is configured"):
            settings(host=host)
        assert settings(host=host, insecure=True).host == settings(host=host, keys=KEYS).host == host
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_loopback(host) and settings(host=host).host == host


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([{"name": "a b", "hash": hash_of("x")}], r"keys\[0\]\.name"),
        ([{"name": "a\r\nb", "hash": hash_of("x")}], r"keys\[0\]\.name"),
        ([{"name": "a", "hash": "x"}], r"keys\[0\]\.hash"),
        ([{"name": "a", "key": "x"}], r"keys\[0\]\.key: there is no such setting"),
        ([{"name": "a", "hash": hash_of("x"), "requests_per_minute": 0}], "requests_per_minute"),
        ([{"name": "a", "hash": hash_of("x")}, {"name": "a", "hash": hash_of("y")}], "the name of a is listed twice"),
        ([{"name": "a", "hash": hash_of("x")}, {"name": "b", "hash": hash_of("x")}], "the hash of a is listed twice"),
    ],
)
def test_bad_keys_are_named(entries: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=text):
        settings(keys=entries)
    file = tmp_path / "keys"
    file.write_text(yaml.safe_dump(entries))
    with pytest.raises(InvalidSettings, match=text):
        KeyRing(settings(keys_file=file))


def test_a_missing_or_shapeless_file_of_keys(tmp_path: Path) -> None:
    for content, text in ((None, "No such file"), ("a: 1", "a list of keys"), ("[", "not YAML"), ("\x00", "not YAML")):
        file = tmp_path / "keys.yaml"
        if content is not None:
            file.write_text(content)
        with pytest.raises(InvalidSettings, match=text):
            KeyRing(settings(keys_file=file))


def test_browsers_of_other_origins_are_kept_out_unless_listed(run: Any) -> None:
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}

    async def main() -> None:
        async with running_app() as (client, _):
            preflight = await client.options("/v1/embeddings", headers=ask)
            plain = await client.get("/v1/models", headers={"Origin": "https://a.example"})
            assert preflight.status_code == 405 and "access-control-allow-origin" not in plain.headers
        async with running_app(cors_origins=["https://a.example"], keys=KEYS) as (client, _):
            wanted = {**ask, "Access-Control-Request-Headers": "authorization"}
            preflight = await client.options("/v1/embeddings", headers=wanted)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == "https://a.example"
            # A refusal can be read as well.
            refused = await client.get("/v1/models", headers={"Origin": "https://a.example"})
            assert refused.status_code == 401 and "access-control-allow-origin" in refused.headers
            other = await client.get("/v1/models", headers={"Origin": "https://b.example", **bearer(ALICE)})
            assert other.status_code == 200 and "access-control-allow-origin" not in other.headers

    run(main())


def test_the_command_prints_a_key_and_an_entry_that_admits_it() -> None:
    import typer

    from serving.key_cli import key

    app = typer.Typer()
    app.command()(key)
    done = CliRunner().invoke(app, ["new", "lab", "--models", "a,org/*", "--requests-per-minute", "60"])
    assert done.exit_code == 0, done.output
    fresh, _, rest = done.output.partition("\n")
    entries = yaml.safe_load(rest[rest.index("- name") :])
    assert entries[0]["models"] == ["a", "org/*"] and entries[0]["requests_per_minute"] == 60
    found = KeyRing(settings(keys=entries)).find(fresh)
    assert found is not None and found.name == "lab" and fresh not in rest
    assert CliRunner().invoke(app, ["new", "lab"]).output.partition("\n")[0] != fresh
    with pytest.raises(InvalidSettings, match=r"key\.name"):
        CliRunner().invoke(app, ["new", "two words"], catch_exceptions=False)


def test_a_certificate_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path) -> None:
    tls = self_signed(tmp_path)
    for bad in (
        TLSSettings(certificate=tls.key, key=tls.key),
        TLSSettings(certificate=tls.certificate, key=tls.certificate),
        TLSSettings(certificate=tmp_path, key=tls.key),
        TLSSettings(certificate=tls.certificate, key=tmp_path / "none.pem"),
    ):
        with pytest.raises(InvalidSettings, match="tls:"):
            check_tls(bad)
    assert check_settings({"models": ["a"], "tls": {"certificate": "a", "key": "b"}}).tls is not None
