"""What is tried again, when, and what ends a client."""

import email.utils
import time
from contextlib import AbstractAsyncContextManager
from typing import Any, Unpack

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.client.site import SETTINGS, URL, Site, bearer, open_site, refusal, run
from trio_gateway.client import (
    ClientError,
    ClientOptions,
    Closed,
    Disconnected,
    NotAGateway,
    Room,
    State,
    UpgradeRefused,
    Waiting,
    connect_chat,
    connect_notifications,
)
from trio_gateway.client.backoff import Backoff, retry_after, retry_of_close
from trio_gateway.routing import Router
from trio_gateway.testing import open_gateway


class Waits:
    """Notes how long a client waits each time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.whys: list[str] = []

    def __call__(self, state: State) -> None:
        if isinstance(state, Waiting):
            self.seconds.append(round(state.until - trio.current_time(), 6))
            self.whys.append(state.why)


def most(low: float, high: float) -> float:
    """Draw the longest wait."""
    return high


def chat(site: Site, **options: Unpack[ClientOptions]) -> AbstractAsyncContextManager[Room]:
    defaults = ClientOptions(connect=site.connect, settings=SETTINGS)
    return connect_chat(URL, **(defaults | options))


@given(st.floats(0.01, 10), st.floats(0.01, 100), st.integers(1, 2000))
def test_backoff_is_full_jitter(base: float, cap: float, count: int) -> None:
    """Each wait is drawn from 0 to min(cap, base · 2ⁿ)."""
    ranges: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        ranges.append((low, high))
        return high

    backoff = Backoff(base, cap, draw)
    for _ in range(count):
        backoff.next()
    assert [(0, min(cap, base * 2 ** min(n, 60))) for n in range(count)] == ranges
    backoff.reset()
    assert min(cap, base) == backoff.next()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_backoff_is_bounded(draws: list[float]) -> None:
    """Whatever is drawn: no wait is negative or above the cap."""
    values = iter(draws)
    backoff = Backoff(0.5, 30, lambda low, high: low + (high - low) * next(values))
    for _ in draws:
        assert 0 <= backoff.next() <= 30


def test_what_a_server_asks_for_is_read() -> None:
    """``retry MS`` of a close, ``Retry-After`` as seconds or date; bounded, None for the rest."""
    assert 1.5 == retry_of_close("retry 1500", 10)
    assert 10 == retry_of_close("retry 999999999", 10)
    assert [None] * 4 == [retry_of_close(x, 10) for x in (None, "", "later", "retry -5")]
    assert 7 == retry_after("7", 10)
    assert 10 == retry_after("70", 10)
    date = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert 10 == retry_after(date, 10)
    assert 0 == retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 10)
    assert [None] * 3 == [retry_after(x, 10) for x in (None, "soon", "-1")]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 426, 301])
async def test_a_final_status_ends_it(status: int, autojump_clock: trio.testing.MockClock) -> None:
    """At once, with the server's sentence."""
    async with open_site() as site:
        site.answers.append(refusal(status, body='{"message": "no"}'))
        async with chat(site) as room:
            with pytest.raises(UpgradeRefused) as refused:
                await room.publish("x")
            assert (status, "no") == (refused.value.status, refused.value.message)
            with pytest.raises(UpgradeRefused):
                await room.publish("y")
            with pytest.raises(UpgradeRefused):
                await room.__anext__()
            with pytest.raises(UpgradeRefused):
                await room.wait_live()
            assert Closed(refused.value) == room.state
        assert 0 == trio.current_time()
        assert 1 == len(site.requests)


async def test_the_end_is_told_to_somebody(autojump_clock: trio.testing.MockClock) -> None:
    """A program that neither iterates nor asks hears of it when it leaves."""
    async with open_site() as site:
        site.answers.append(refusal(403))
        with pytest.raises(UpgradeRefused):
            async with chat(site):
                await trio.sleep(1)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_passing_status_is_tried_again(
    status: int, autojump_clock: trio.testing.MockClock
) -> None:
    """After the seconds of ``Retry-After`` with jitter on top, or after the back-off."""
    waits = Waits()
    async with open_site() as site:
        site.answers += [refusal(status, "Retry-After: 7\r\n"), refusal(status)]
        async with chat(site, on_state=waits, uniform=most) as room:
            await room.wait_live()
    assert [7.5, 1.0] == waits.seconds


def closing(code: int, reason: str | None = None, *, welcome: bool = True) -> Router:
    """Return a server that welcomes its first client and closes."""
    router = Router()
    seen: list[int] = []

    async def handler(upgrade: Any) -> None:
        connection = await upgrade.accept()
        if welcome:
            await connection.send_message('{"type":"welcome","user":"u","connection":"c"}')
            at = '{"epoch":"e","offset":0}'
            await connection.send_message(f'{{"type":"joined","room":"lobby","position":{at}}}')
        seen.append(1)
        if len(seen) == 1:
            await connection.aclose(code, reason)
        await trio.sleep_forever()

    router.fallback(handler)
    return router


@pytest.mark.parametrize("welcome", [True, False])
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 4401, 4403])
async def test_a_final_code_ends_it(
    code: int, welcome: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """The iteration raises the code and the reason; it never just ends."""
    async with (
        open_gateway(closing(code, "why", welcome=welcome)) as server,
        connect_chat(URL, connect=server.connect) as room,
    ):
        with pytest.raises(Disconnected) as ended:
            await room.__anext__()
        assert (code, "why") == (ended.value.code, ended.value.reason)


@pytest.mark.parametrize(
    "code, reason, wait",
    [
        (1011, None, 0.5),
        (1012, "retry 1234", 1.234),
        (1012, None, 0.5),
        (1013, "slow consumer", 0.5),
        (4408, "no pong", 0.5),
        (4429, "retry 2000", 2.5),
    ],
)
async def test_a_passing_code_is_tried_again(
    code: int, reason: str | None, wait: float, autojump_clock: trio.testing.MockClock
) -> None:
    """After the time it asks for, or after the back-off."""
    waits = Waits()
    async with (
        open_gateway(closing(code, reason)) as server,
        connect_chat(URL, connect=server.connect, on_state=waits, uniform=most) as room,
    ):
        await trio.sleep(5)
        await room.wait_live()
    assert [wait] == waits.seconds


async def test_waits_grow_and_begin_anew(autojump_clock: trio.testing.MockClock) -> None:
    """Twice as much each time up to the cap; from the start once a connection was stable."""
    waits = Waits()
    async with open_site() as site:
        await site.stop()
        async with chat(site, on_state=waits, uniform=most) as room:
            await trio.sleep(120)
            assert [0.5, 1, 2, 4, 8, 16, 30, 30] == waits.seconds[:8]
            assert "Connection refused" == waits.whys[0]
            await site.start()
            await room.wait_live()
            await trio.sleep(1)
            await site.reset()
            await trio.sleep(100)
            assert 30 == waits.seconds[-1]
            await site.reset()
            await trio.sleep(1)
            assert 0.5 == waits.seconds[-1]


async def test_no_answer_is_waited_for_in_vain(autojump_clock: trio.testing.MockClock) -> None:
    """A server that accepts and says nothing costs the connect timeout."""
    waits = Waits()

    async def connect() -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        kept.append(theirs)
        return ours

    kept: list[trio.abc.Stream] = []
    async with connect_chat(URL, connect=connect, on_state=waits):
        await trio.sleep(16)
    assert ["no answer in time"] == waits.whys


async def test_another_server_is_no_gateway(autojump_clock: trio.testing.MockClock) -> None:
    """What doesn't welcome its client is not tried again."""

    async def handler(upgrade: Any) -> None:
        connection = await upgrade.accept()
        await connection.send_message("hello")
        await trio.sleep_forever()

    async with open_gateway(handler) as server:
        for connect in (connect_chat, connect_notifications):
            with pytest.raises(NotAGateway):
                async with connect(URL, connect=server.connect) as client:
                    await client.__anext__()


async def test_a_token_is_asked_for_anew(autojump_clock: trio.testing.MockClock) -> None:
    """For each connection; a refused one only counts until there is another."""
    tokens = iter(["t1", "t2", "t3"])

    async def token() -> str:
        await trio.lowlevel.checkpoint()
        return next(tokens)

    async with open_site() as site:
        site.answers += [refusal(503), refusal(401)]
        async with chat(site, token=token) as room:
            await room.wait_live()
        assert ["t1", "t2"] == [bearer(head) for head in site.requests]


@pytest.mark.parametrize("token", ["same", None, "callable"])
async def test_a_refused_token_is_final(
    token: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    """Without another one, and after two that were refused in a row."""

    async def ask() -> str:
        await trio.lowlevel.checkpoint()
        return "same"

    async with open_site() as site:
        site.answers += [refusal(401)] * 3
        with pytest.raises(UpgradeRefused) as refused:
            async with chat(site, token=ask if token == "callable" else token) as room:
                await room.__anext__()
        assert 401 == refused.value.status
        assert 1 == len(site.requests)


async def test_fresh_tokens_are_not_tried_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The second refusal in a row is final."""
    count = 0

    async def token() -> str:
        nonlocal count
        count += 1
        await trio.lowlevel.checkpoint()
        return f"t{count}"

    async with open_site() as site:
        site.answers += [refusal(401)] * 3
        with pytest.raises(UpgradeRefused):
            async with chat(site, token=token) as room:
                await room.__anext__()
        assert 2 == len(site.requests)


async def test_a_token_stays_out_of_sight(autojump_clock: trio.testing.MockClock) -> None:
    """No header is made of what is no token."""
    async with open_site() as site:
        with pytest.raises(ValueError, match="no bearer token has"):
            async with chat(site, token="a\r\nX: y") as room:
                await room.__anext__()


@given(st.binary(max_size=200), st.booleans())
def test_whatever_answers_is_survived(answer: bytes, upgraded: bool) -> None:
    """Any bytes instead of a server: the client waits or raises its own errors, nothing else."""

    async def scenario() -> None:
        async with open_site() as site:
            accept = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            site.answers.append((accept if upgraded else b"") + answer)
            try:
                async with chat(site) as room:
                    await room.publish("x")
            except ClientError:
                pass

    run(scenario)
