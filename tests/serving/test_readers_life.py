"""What is left of reader processes and of their files when the service ends, in whatever way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reader processes need Linux")

HERE = Path(__file__).parent
SCRIPT = """
import asyncio, json, os, sys
sys.path.insert(0, {here!r})
from serving.config import check_settings
from serving.engine import Engine
from serving.inputs import PlainValue

async def main():
    engine = Engine(check_settings({{"models": ["dummy"],
                                    "embedder_factory": "poison:load_poisoned", "torch_threads": 1,
                                    "reader_workers": 2, "reader_timeout_s": 100, "spool_dir": {spool!r}}}))
    await engine.wait_ready()
    stuck = asyncio.create_task(engine.embed("dummy", [PlainValue("POISON loop")]))
    await asyncio.sleep(0.3)
    nursery = engine.pool._nursery.pid
    print(json.dumps([nursery, *(r.process.pid for r in engine.pool._readers)]), flush=True)
    if sys.stdin.readline() == "close\\n":
        stuck.cancel()
        await engine.close()
        print("closed", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("how", ["kill", pytest.param("close", marks=pytest.mark.slow)])
def test_nothing_is_left(tmp_path: Path, how: str) -> None:
    script = SCRIPT.format(here=str(HERE), spool=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None and server.stdin is not None
        pids = json.loads(server.stdout.readline())
        assert len(pids) == 3 and all(map(alive, pids))
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700 and len(list(folder.glob("reader-*"))) == 2
        if how == "close":
            server.stdin.write("close\n")
            server.stdin.flush()
            assert server.stdout.readline() == "closed\n"
        else:
            server.send_signal(signal.SIGKILL)
        # One of them is in a loop that never ends.
        stop = time.monotonic() + 5
        while any(map(alive, pids)) or any(tmp_path.iterdir()):
            assert time.monotonic() < stop, [p for p in pids if alive(p)]
            time.sleep(0.02)
        server.stdin.close()
