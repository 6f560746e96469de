"""Out of descriptors: the gateway stays, says so once a second, and goes on when there are some."""

import pytest

from tests.rude.programs.running import run_program


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_a_gateway_out_of_descriptors(transport: str) -> None:
    """Ten starved seconds with forty clients: ten lines, no traceback, and all are served after."""
    report, stderr = await run_program("starved.py", transport)
    assert stderr == ""
    assert report["accepted while starved"] < 40
    assert 1 <= len(report["lines"]) <= 11
    assert set(report["lines"]) == {"cannot accept connections: Too many open files; trying again"}
    assert report["tracebacks"] == 0
    assert report["lines later"] <= 1
    assert report["healthy"]
    assert report["left"] == 0
