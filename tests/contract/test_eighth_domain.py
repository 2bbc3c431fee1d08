"""A domain outside the tree, found by its entry point: pretrained, published, loaded and served from the command
line, without a line of hub or serving changed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hub
from serving.client import Client, ServiceError


@pytest.fixture(scope="module")
def environment(toy_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(toy_path), str(Path.cwd())]), "OMP_NUM_THREADS": "1"}


def fmhub(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hub.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def run(toy, environment, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eighth")
    done = fmhub(environment, "samples", folder / "data", "--domain", "numbers")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(folder / "data/numbers" / f) for f in ("rising.num", "falling.num")]
    arguments = ("--data", folder / "data/numbers", "--output-dir", folder / "run", "--steps", "10")
    done = fmhub(environment, "pretrain", "sequences/tiny", *arguments)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_it_is_listed_with_its_own_command(environment, run) -> None:
    listed = json.loads(fmhub(environment, "models", "--json").stdout)
    assert "numbers" in [d["name"] for d in listed["domains"]]
    assert "count-numbers" in fmhub(environment, "--help").stdout
    counted = fmhub(environment, "count-numbers", run.parent / "data/numbers/rising.num")
    assert counted.stdout.strip() == "3", counted.stderr


@pytest.mark.parametrize("kind", ["npy", "parquet", "jsonl"])
def test_it_embeds_a_folder_and_reports_what_failed(environment, run, tmp_path, kind) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/good.num").write_text("a: 1 2 3\nb: 4 5 6 7")
    (tmp_path / "deep/bad.num").write_text("nonsense")
    (tmp_path / "ignored.txt").write_text("not of this domain")
    output = tmp_path / f"out.{kind}"
    done = fmhub(environment, "embed", run, tmp_path, "--output", output)
    assert done.returncode == 1
    assert "bad.num: a line is not" in done.stderr and "could not be used: 1, embedded: 2" in done.stderr
    expected = hub.from_pretrained(run).embed(tmp_path / "deep/er/good.num").vectors
    if kind == "npy":
        found = np.load(output)
        assert output.with_suffix(".npy.items.csv").read_text().splitlines()[1].endswith("good.num,a")
    elif kind == "jsonl":
        found = np.array([json.loads(line)["embedding"] for line in output.read_text().splitlines()], np.float32)
    else:
        import pyarrow.parquet as pq

        found = np.array(pq.read_table(output)["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_errors_are_one_line(environment, run, tmp_path) -> None:
    for arguments in (
        ("embed", "no-such-model", tmp_path, "-o", tmp_path / "x.npy"),
        ("embed", run, tmp_path, "-o", tmp_path / "x.txt"),
        ("embed", run, tmp_path, "-o", tmp_path / "x.npy"),
        ("pretrain", "no-such-recipe", "--data", tmp_path, "--output-dir", tmp_path / "r"),
        ("convert", "sequences", tmp_path / "x.pth", tmp_path / "out"),
        ("evaluate", run, "--manifest", tmp_path / "absent.csv"),
        ("publish", tmp_path, "a/b"),
    ):
        done = fmhub(environment, *arguments)
        assert done.returncode == 1, arguments
        assert done.stderr.startswith("fmhub: ") and len(done.stderr.splitlines()) == 1, done.stderr


def test_it_is_evaluated(environment, run, tmp_path) -> None:
    folder = run.parent / "data/numbers"
    lines = [f"{folder / f'{name}.num'},{name},{name}{i}" for name in ("rising", "falling") for i in range(3)]
    manifest = tmp_path / "set.csv"
    manifest.write_text("file,label,item\n" + "\n".join(lines))
    done = fmhub(environment, "evaluate", run, "--manifest", manifest, "--probe", "nb", "--folds", "3")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["results"]) == {"model", "random_twin", "baseline", "gain_over_twin"}
    assert report["folds"] == 3 and 0 <= report["results"]["model"]["accuracy"]["mean"] <= 1


@pytest.mark.ray
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_it_is_served(environment, run, backend, tmp_path) -> None:
    command = [sys.executable, "-m", "hub.cli", "serve", str(run), "--port", "0", "--backend", backend]
    with (tmp_path / "stderr").open("w") as errors:
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert server.stdout is not None
        printed = ""
        for line in server.stdout:
            printed += line
            if "curl" in line:
                break
        address = re.search(r"http://127\.0\.0\.1:\d+", printed)
        assert address, printed + (tmp_path / "stderr").read_text()
        curl = printed.splitlines()[-1].split()
        answer = json.loads(subprocess.run([*curl, "-s"], capture_output=True, text=True, timeout=60).stdout)
        assert [d["item"]["key"] for d in answer["data"]] == ["rising0", "rising1", "rising2"]
        with Client(address[0]) as client:
            path = run.parent / "data/numbers/falling.num"
            expected = hub.from_pretrained(run).embed(path).vectors
            np.testing.assert_allclose(client.embed(run.name, path).vectors, expected, atol=1e-5)
            assert client.run(run.name, "total", {"numbers": [1, 2, 3.5]}) == [{"total": 6.5}]
            assert client.run(run.name, "table", {"numbers": [1, 2]}) == b"1.0,2.0"
            with pytest.raises(ServiceError, match="is empty") as caught:
                client.embed(run.name, [{"numbers": [1, 2]}, {"numbers": []}])
            assert (caught.value.status, caught.value.param) == (422, "input[1]")
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
