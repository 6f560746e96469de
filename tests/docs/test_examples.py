"""The examples run, as their docstrings say."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionRejected, open_websocket_url

from docs.examples import chat_in_your_app, echo, printed_token
from tests.cli.process import gateway, start
from tests.docs.pages import DOCS, ROOT, blocks
from trio_gateway.client import Notification, connect_notifications
from trio_gateway.storm import Recording
from trio_gateway.storm.pytest_plugin import Storm, storm
from trio_gateway.testing import open_gateway

__all__ = ["storm"]  # pytest finds the fixture here

EXAMPLES = DOCS / "examples"


def test_every_example_has_a_test() -> None:
    """This file, or another one of the tests, names each example."""
    texts = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "tests").rglob("*.py")
        if path.parent.name != "examples"
    )
    for example in EXAMPLES.iterdir():
        if example.suffix in (".py", ".sh"):
            assert example.stem in texts, example.name


async def test_echo(autojump_clock: trio.testing.MockClock) -> None:
    """Whatever a client says comes back."""
    async with open_gateway(echo.echo) as server, server.open_websocket("/") as client:
        for message in ("text", b"bytes"):
            await client.send_message(message)
            assert message == await client.get_message()


async def test_chat_in_your_app(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """People chat, and the program says something each minute."""
    router, hub, chat = chat_in_your_app.make()
    async with (
        open_gateway(router, hub=hub) as server,
        server.open_websocket("/chat?room=clock&user=ann") as client,
    ):
        assert '"welcome"' in str(await client.get_message())
        assert '"joined"' in str(await client.get_message())
        nursery.start_soon(chat_in_your_app.tick, chat)
        assert '"text":"minute 0"' in str(await client.get_message())
        await client.send_message("nice")
        assert '"text":"nice"' in str(await client.get_message())
        assert '"text":"minute 1"' in str(await client.get_message())
        nursery.cancel_scope.cancel()


async def test_printed_token() -> None:
    """Run as it says: who has the printed URL comes in, and nobody else."""
    command = [sys.executable, "-P", "-c", "import trio, docs.examples.printed_token as it; "]
    command[-1] += "trio.run(it.main, 0)"
    async with start(command) as running:
        url = await running.out.next()
        assert url is not None
        async with open_websocket_url(url) as client:
            assert "come in" == await client.get_message()


async def test_printed_token_in_a_header(autojump_clock: trio.testing.MockClock) -> None:
    """A program shows it in a header, where no log has it; who has none stays outside."""
    token = printed_token.PrintedToken()
    async with (
        open_gateway(printed_token.greet, authenticate=token) as server,
        server.open_websocket(
            "/", extra_headers=[(b"Authorization", f"token {token.token}".encode())]
        ) as client,
    ):
        assert "come in" == await client.get_message()
        for wrong in ("/", "/?token=", f"/?token={token.token}x"):
            with pytest.raises(ConnectionRejected, match="403"):
                async with server.open_websocket(wrong):
                    pass


async def test_a_storm_from_pytest(nursery: trio.Nursery, storm: Storm) -> None:
    """The test of the storm's page passes, here with fewer clients."""
    names: dict[str, Any] = {"__name__": "docs"}
    (block,) = blocks(DOCS / "storm.md", "python")
    exec(block.text, names)

    async def small(place: str, *, seed: int, clients: int) -> Recording:
        return await storm(place, seed=seed, clients=clients // 10)

    await names["test_it_survives"](nursery, small)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("works", [True, False], ids=["done", "failed"])
async def test_nightly_backup(tmp_path: Path, works: bool) -> None:
    """The user hears how it went, with what was said."""
    source = tmp_path / "source"
    if works:
        source.mkdir()
        (source / "file").write_text("kept")
    async with gateway("--api-token", "t") as running:
        env = os.environ | {
            "BACKUP": str(tmp_path / "backup.tar.gz"),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "SOURCE": str(source),
            "TRIO_GATEWAY_API_TOKEN": "t",
            "TRIO_GATEWAY_URL": running.url,
        }
        async with connect_notifications(running.url, user="ann") as inbox:
            script = [str(EXAMPLES / "nightly_backup.sh")]
            await trio.run_process(script, env=env, stdout=subprocess.DEVNULL)
            async for event in inbox:
                title = "The backup is done" if works else "The backup has failed"
                assert isinstance(event, Notification)
                assert title == event.title
                break
    if works:
        assert (tmp_path / "backup.tar.gz").exists()
