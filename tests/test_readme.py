"""The README is true: its program runs, its flags exist, its tests are there."""

import re
from pathlib import Path
from typing import Any

import pytest

from trio_gateway.cli.options import SETTINGS
from trio_gateway.testing import open_gateway

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


async def test_the_program_runs() -> None:
    """The Trio application of the README answers as it says."""
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(source, names)
    async with (
        open_gateway(names["router"]) as server,
        server.open_websocket("/rooms/blue") as client,
    ):
        await client.send_message("hello")
        assert "blue: 'hello'" == await client.get_message()


def test_the_flags_are_those_of_serve() -> None:
    """Every flag of the table exists, and every flag that this build obeys is in the table."""
    told = set(re.findall(r"`--([a-z-]+)", README.partition("## Flags")[2].partition("## ")[0]))
    assert {setting.name for setting in SETTINGS} | {"config"} == told


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/.]+)`", README))))
def test_what_is_promised_is_tested(path: str) -> None:
    """The file that holds a guarantee is there and has tests."""
    assert "def test_" in (ROOT / path).read_text()
