"""Libraries that would tell others about the service's work do not, unless its user has chosen so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys, typer
from typer.testing import CliRunner
from serving.cli import serve
assert "huggingface_hub" not in sys.modules
app = typer.Typer()
app.command()(serve)
print(CliRunner().invoke(app, ["no-such-model", "--port", "0"]).exception)
import huggingface_hub.constants as constants, os
print(constants.HF_HUB_DISABLE_TELEMETRY, os.environ["HF_HUB_DISABLE_TELEMETRY"])
"""


@pytest.mark.parametrize(("chosen", "told"), [(None, "True 1"), ("0", "False 0")])
def test_serving_turns_the_telemetry_of_downloads_off(chosen: str | None, told: str) -> None:
    given = {} if chosen is None else {"HF_HUB_DISABLE_TELEMETRY": chosen}
    # What turns it off as well is not looked at here.
    left_out = (
        "HF_HUB_DISABLE_TELEMETRY",
        "DISABLE_TELEMETRY",
        "DO_NOT_TRACK",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    )
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={**kept, **given}, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == [told], done.stdout + done.stderr
