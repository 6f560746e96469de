"""Runs the programs of this folder: what would end or starve the test run gets its own process."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import trio

from tests.rude.site import GUARD

_HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(_HERE.parents[2])}


def program(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a program of this folder."""
    return [sys.executable, str(_HERE / name), *arguments]


async def run_program(name: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """Run it; return the JSON that it printed, and its stderr."""
    with trio.fail_after(3 * GUARD):
        done = await trio.run_process(
            program(name, *arguments),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=ENVIRONMENT,
        )
    stderr = done.stderr.decode()
    assert done.returncode == 0, stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report, stderr
