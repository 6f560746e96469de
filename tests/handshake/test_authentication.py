"""``authenticate=`` of a gateway: asked before the handler, in time, and contained."""

import json
import logging
import time
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_gateway import ConnectionRejected, Identity, Refusal, Timeouts, Upgrade
from trio_gateway.testing import OpenGateway, open_gateway


async def greet(upgrade: Upgrade) -> None:
    """Tell the client who it is, then listen."""
    connection = await upgrade.accept()
    await connection.send_message(upgrade.identity.user if upgrade.identity else "nobody")
    async for _ in connection:
        pass


async def ann(upgrade: Upgrade) -> Identity | Refusal:
    await trio.lowlevel.checkpoint()
    return Identity("ann")


async def for_a_minute(upgrade: Upgrade) -> Identity | Refusal:
    return Identity("ann", expires=time.time() + 60)


async def for_ever_asking(upgrade: Upgrade) -> Identity | Refusal:
    await trio.sleep_forever()
    raise AssertionError


async def fail(upgrade: Upgrade) -> Identity | Refusal:
    raise RuntimeError("the directory is down")


async def say_nonsense(upgrade: Upgrade) -> Any:
    return "ann"


async def refuse(upgrade: Upgrade) -> Identity | Refusal:
    return Refusal(401, "missing_token", "no", (("WWW-Authenticate", "Bearer"),))


async def refused(server: OpenGateway, *headers: tuple[bytes, bytes]) -> tuple[int, str]:
    """Connect and return how that was refused."""
    with pytest.raises(ConnectionRejected) as caught:
        async with server.open_websocket("/", extra_headers=list(headers)):
            pass
    return caught.value.status_code, json.loads(caught.value.body or b"{}")["error"]


async def test_the_handler_finds_the_identity(autojump_clock: MockClock) -> None:
    """It runs once it is known."""
    async with (
        open_gateway(greet, authenticate=ann) as server,
        server.open_websocket("/") as client,
    ):
        assert "ann" == await client.get_message()


@pytest.mark.parametrize(
    "authenticate, expected",
    [
        (refuse, (401, "missing_token")),
        (for_ever_asking, (503, "authentication_timeout")),
        (fail, (500, "authentication_failed")),
        (say_nonsense, (500, "authentication_failed")),
    ],
)
async def test_who_is_nobody_never_meets_the_handler(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    authenticate: Any,
    expected: tuple[int, str],
) -> None:
    """A refusal, silence, an exception, nonsense: an answer before the 101, each time."""

    async def never(upgrade: Upgrade) -> None:
        raise AssertionError

    async with open_gateway(never, authenticate=authenticate) as server:
        with caplog.at_level(logging.CRITICAL, "trio_gateway"):
            for _ in range(2):
                assert expected == await refused(server)


async def test_the_deadline_is_its_own(autojump_clock: MockClock) -> None:
    """``Timeouts.authentication_timeout``, whatever the handler may take."""
    timeouts = Timeouts(authentication_timeout=3, decision_timeout=50)
    async with open_gateway(greet, authenticate=for_ever_asking, timeouts=timeouts) as server:
        before = trio.current_time()
        await refused(server)
        assert 3 <= trio.current_time() - before < 6


async def test_an_identity_that_expires_closes_with_4401(autojump_clock: MockClock) -> None:
    """Not before, and without a task of its own."""
    async with (
        open_gateway(greet, authenticate=for_a_minute) as server,
        server.open_websocket("/") as client,
    ):
        await client.get_message()
        before = trio.current_time()
        tasks = trio.lowlevel.current_statistics().tasks_living
        await trio.sleep(50)
        assert client.closed is None
        assert tasks == trio.lowlevel.current_statistics().tasks_living
        with pytest.raises(trio.TooSlowError), trio.fail_after(5):
            await client.get_message()
        with pytest.raises(Exception, match="4401"):
            await client.get_message()
        assert 59 < trio.current_time() - before < 62


async def test_a_token_that_is_over_by_then_ends_at_once(autojump_clock: MockClock) -> None:
    """A slow handler gains nothing."""

    async def expired(upgrade: Upgrade) -> Identity | Refusal:
        return Identity("ann", expires=1.0)

    async with (
        open_gateway(greet, authenticate=expired) as server,
        server.open_websocket("/") as client,
    ):
        await trio.sleep(1)
        assert client.closed is not None
        assert 4401 == client.closed.code


async def test_bearer_is_answered_and_the_token_is_not_shown(autojump_clock: MockClock) -> None:
    """Neither to the client nor to the handler that looks for its own subprotocol."""
    seen: list[tuple[str, ...]] = []

    async def by_subprotocol(upgrade: Upgrade) -> Identity | Refusal:
        return Identity(upgrade.proposed_subprotocols[1], subprotocol="bearer")

    async def look(upgrade: Upgrade) -> None:
        seen.append(upgrade.proposed_subprotocols)
        await greet(upgrade)

    async with (
        open_gateway(look, authenticate=by_subprotocol) as server,
        server.open_websocket("/", subprotocols=["bearer", "a.b.c", "chat"]) as client,
    ):
        assert "a.b.c" == await client.get_message()
        assert ("bearer", [("bearer", "chat")]) == (client.subprotocol, seen)


ELSEWHERE = (b"Origin", b"https://elsewhere.test")


async def test_pages_of_other_hosts_are_kept_out_by_default(autojump_clock: MockClock) -> None:
    """Unless there is nobody to authenticate, or nothing ambient to do it by, or they are named."""

    class ByToken:
        ambient = False

        async def __call__(self, upgrade: Upgrade) -> Identity | Refusal:
            return Identity("ann")

    async with open_gateway(greet, authenticate=ann) as server:
        assert (403, "origin_not_allowed") == await refused(server, ELSEWHERE)
    open_to_all: list[dict[str, Any]] = [
        {},
        {"authenticate": ByToken()},
        {"authenticate": ann, "allowed_origins": ["*"]},
    ]
    for settings in open_to_all:
        async with (
            open_gateway(greet, **settings) as server,
            server.open_websocket("/", extra_headers=[ELSEWHERE]) as client,
        ):
            assert await client.get_message()


@pytest.mark.parametrize("user", ["", "x" * 65, "a\tb", "\u202e", "\ud800", " "])
def test_an_identity_has_a_name(user: str) -> None:
    """Whoever authenticates cannot vouch for one that others could not see."""
    with pytest.raises(ValueError, match="user"):
        Identity(user)
