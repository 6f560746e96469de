"""The tutorial is the program that it promises."""

import pytest
import trio.testing
from trio_websocket import ConnectionRejected

from docs.examples import rooms
from tests.docs.pages import DOCS, blocks
from trio_gateway.testing import open_gateway


def test_the_blocks_are_the_program() -> None:
    """Put together, all but the test are the file, which has 40 lines without the blank ones."""
    told = [block.text for block in blocks(DOCS / "tutorial.md", "python")]
    program = (DOCS / "examples" / "rooms.py").read_text(encoding="utf-8")
    lines = [line for line in program.splitlines() if line]
    assert lines == [line for text in told[:-1] for line in text.splitlines() if line]
    assert len(lines) <= 40


async def test_people_with_a_token_hear_each_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In one room, and not in another."""
    async with (
        open_gateway(rooms.router, hub=rooms.hub, authenticate=rooms.authenticate) as server,
        server.open_websocket("/rooms/tea?token=orange-juice") as ann,
        server.open_websocket("/rooms/tea?token=apple-pie") as bob,
        server.open_websocket("/rooms/milk?token=apple-pie") as elsewhere,
        server.open_websocket("/echo?token=apple-pie") as echo,
    ):
        await trio.testing.wait_all_tasks_blocked()
        await ann.send_message("hello")
        assert "ann: hello" == await ann.get_message()
        assert "ann: hello" == await bob.get_message()
        await elsewhere.send_message("nobody here")
        assert "bob: nobody here" == await elsewhere.get_message()
        await echo.send_message(b"bytes")
        assert b"bytes" == await echo.get_message()


@pytest.mark.parametrize("path", ["/echo", "/rooms/tea?token=no"])
async def test_nobody_else_comes_in(path: str, autojump_clock: trio.testing.MockClock) -> None:
    """The handler is not asked; the answer says what to do."""
    async with open_gateway(rooms.router, hub=rooms.hub, authenticate=rooms.authenticate) as server:
        with pytest.raises(ConnectionRejected) as rejected:
            async with server.open_websocket(path):
                pass
    assert (401, True) == (
        rejected.value.status_code,
        b"connect with ?token=TOKEN" in (rejected.value.body or b""),
    )
