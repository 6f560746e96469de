"""The README is true: its program runs, its flags exist, its tests are there."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_gateway.apps.chat import ChatApp
from trio_gateway.cli.flags import SETTINGS
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.testing import open_gateway

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def program(number: int) -> dict[str, Any]:
    """Return the names that one of the README's programs defines."""
    names: dict[str, Any] = {"__name__": "readme"}
    exec(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number], names)
    return names


async def test_the_program_runs() -> None:
    """The Trio application of the README answers as it says."""
    names = program(0)
    async with (
        open_gateway(names["router"]) as server,
        server.open_websocket("/rooms/blue") as client,
    ):
        await client.send_message("hello")
        assert "blue: 'hello'" == await client.get_message()


async def test_the_client_runs(nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]) -> None:
    """The client of the README publishes and receives."""
    names = program(1)
    hub = Hub(MemoryBroker())
    async with open_gateway(ChatApp(hub).handle, hub=hub) as server:
        nursery.start_soon(partial(names["chat"], "ws://memory/", connect=server.connect))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    stored, said = capsys.readouterr().out.splitlines()
    assert (True, "ann: hello") == (re.fullmatch(r"stored at \w+:1", stored) is not None, said)


def test_the_flags_are_those_of_serve() -> None:
    """Every flag of the table exists, and every flag that this build obeys is in the table."""
    told = set(re.findall(r"`--([a-z0-9-]+)", README.partition("## Flags")[2].partition("## ")[0]))
    assert {setting.name for setting in SETTINGS} | {"config"} == told


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/.]+)`", README))))
def test_what_is_promised_is_tested(path: str) -> None:
    """The file that holds a guarantee is there and has tests."""
    assert "def test_" in (ROOT / path).read_text()
