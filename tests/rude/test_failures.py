"""Whatever a handler raises stays on its connection: 500 before the decision, 1011 after it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, cast

import pytest
import trio
from trio_websocket import CloseReason, ConnectionClosed
from wsproto.utilities import LocalProtocolError

from tests.rude.peer import TEXT, Frame, handshake, text
from tests.rude.site import GUARD, Serve, echo
from trio_gateway import Handler, HttpRequest, HttpResponse, Upgrade

Raise = Callable[[], Awaitable[NoReturn]]


class Unprintable(Exception):
    """Not even its text can be had."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def raising(error: BaseException) -> Raise:
    async def fail() -> NoReturn:
        raise error

    return fail


async def recursing() -> NoReturn:
    await recursing()
    raise AssertionError


async def children_failing() -> NoReturn:
    """Two children of the handler's own nursery fail at once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raising(ValueError("first")))
        nursery.start_soon(raising(KeyError("second")))
    raise AssertionError


async def too_slow() -> NoReturn:
    with trio.fail_after(0):
        await trio.sleep_forever()
    raise AssertionError


async def stray_cancelled() -> NoReturn:
    """A Cancelled that was kept beyond its scope is no cancellation of anything."""
    kept: trio.Cancelled | None = None
    with trio.move_on_after(0):
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            kept = cancelled
            raise
    assert kept is not None
    raise kept


async def stray_cancelled_in_a_group() -> NoReturn:
    try:
        await stray_cancelled()
    except trio.Cancelled as kept:
        raise BaseExceptionGroup("mixed", [kept, ValueError("and more")]) from None
    raise AssertionError


async def awaiting_nothing() -> NoReturn:
    await cast(Any, None)
    raise AssertionError


async def stopping() -> NoReturn:
    raise StopAsyncIteration


FAILURES: dict[str, Raise] = {
    "ValueError": raising(ValueError("oops")),
    "an exception without text": raising(Unprintable()),
    "AssertionError": raising(AssertionError()),
    "MemoryError": raising(MemoryError()),
    "RecursionError": recursing,
    "StopAsyncIteration": stopping,
    "TypeError of an await": awaiting_nothing,
    "TooSlowError": too_slow,
    "trio.ClosedResourceError": raising(trio.ClosedResourceError()),
    "OSError": raising(OSError(104, "Connection reset by peer")),
    "wsproto.LocalProtocolError": raising(LocalProtocolError("not now")),
    "another connection's ConnectionClosed": raising(ConnectionClosed(CloseReason(1000, None))),
    "ExceptionGroup": raising(ExceptionGroup("several", [ValueError(), KeyError()])),
    "nested ExceptionGroup": raising(ExceptionGroup("a", [ExceptionGroup("b", [OSError()])])),
    "BaseExceptionGroup": raising(BaseExceptionGroup("several", [ValueError(), SystemExit(3)])),
    "children of a nursery": children_failing,
    "SystemExit": raising(SystemExit(3)),
    "GeneratorExit": raising(GeneratorExit()),
    "asyncio.CancelledError": raising(asyncio.CancelledError()),
    "a stray trio.Cancelled": stray_cancelled,
    "a stray trio.Cancelled in a group": stray_cancelled_in_a_group,
}

failures = pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES.keys())


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "trio_gateway"]


@failures
async def test_before_the_decision(
    serve: Serve, fail: Raise, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets 500, the log one error with its traceback, everybody else nothing."""

    async def handler(upgrade: Upgrade) -> None:
        await fail()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with site.client("/healthy") as bystander, await site.connect() as peer:
            await peer.send(handshake())
            answer = await peer.answer()
            assert (500, "handler_failed") == (answer.status, answer.error)
            assert await peer.rest() == b""
            await bystander.send_message("unharmed")
            assert await bystander.get_message() == "unharmed"
    await site.settle()
    (record,) = logged(caplog)
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert site.now.handler_failures == 1


@failures
async def test_after_the_decision(
    serve: Serve, fail: Raise, caplog: pytest.LogCaptureFixture
) -> None:
    """What was sent arrives, then a Close with 1011, which says nothing of what went wrong."""

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        await connection.send_message(await connection.get_message())
        await fail()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with site.client("/healthy") as bystander, await site.connect() as peer:
            await peer.upgrade(behind=text("hello"))
            message, close = await peer.frames()
            assert message == Frame(TEXT, b"hello")
            assert close.code == 1011
            assert "oops" not in close.reason
            await bystander.send_message("unharmed")
            assert await bystander.get_message() == "unharmed"
    await site.settle()
    assert len(logged(caplog)) == 1
    assert site.now.handler_failures == 1


@failures
async def test_after_a_rejection(serve: Serve, fail: Raise) -> None:
    """The answer stands."""

    async def handler(upgrade: Upgrade) -> None:
        await upgrade.reject(403, body=b"no")
        await fail()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            answer = await peer.answer()
            assert (403, b"no") == (answer.status, answer.body)
            assert await peer.rest() == b""
    await site.settle()
    assert site.now.handler_failures == 1


@failures
async def test_after_the_peer_is_gone(serve: Serve, fail: Raise) -> None:
    """There is nobody to tell; it is counted all the same."""

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        async for _ in connection:
            pass
        await fail()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        peer = await site.connect()
        await peer.upgrade()
        await peer.reset()
    await site.settle()
    assert site.now.handler_failures == 1


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in a group"])
async def test_the_end_of_its_own_connection_is_no_failure(
    serve: Serve, caplog: pytest.LogCaptureFixture, wrapped: bool
) -> None:
    """A handler need not catch the ConnectionClosed of its connection, in a nursery or not."""

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        if wrapped:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.get_message)
                nursery.start_soon(connection.ping)
        else:
            await connection.get_message()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        peer = await site.connect()
        await peer.upgrade()
        await peer.reset()
    await site.settle()
    assert logged(caplog) == []
    assert not site.now.handler_failures


def not_async(upgrade: Upgrade) -> None:
    """Decides nothing and cannot be awaited."""


async def test_a_handler_that_is_no_async_function(serve: Serve) -> None:
    """500, and the log says what was awaited."""
    site = await serve(cast(Handler, not_async))
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            assert (await peer.answer()).status == 500
    await site.settle()


async def test_a_handler_that_leaves_a_pending_cancellation_behind(serve: Serve) -> None:
    """It cancelled its own scope and swallowed that: a normal end."""

    async def handler(upgrade: Upgrade) -> None:
        await upgrade.accept()
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep_forever()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            (close,) = await peer.frames()
            assert close.code == 1000
    await site.settle()


async def answer_odd(request: HttpRequest) -> HttpResponse:
    return cast(HttpResponse, "not a response")


async def answer_unsendable(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=200, body=b"hello", headers=(("X-Name", "☃"),))


async def answer_split(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=200, body=b"hello", headers=(("X-Name", "a\r\nX-Evil: yes"),))


def answering(fail: Raise) -> Any:
    async def answer(request: HttpRequest) -> HttpResponse:
        return await fail()

    return answer


HTTP_FAILURES = {name: answering(fail) for name, fail in FAILURES.items()} | {
    "an answer that is none": answer_odd,
    "a header beyond Latin-1": answer_unsendable,
    "a header with CR LF": answer_split,
}


@pytest.mark.parametrize("http", HTTP_FAILURES.values(), ids=HTTP_FAILURES.keys())
async def test_an_http_handler_that_fails(
    serve: Serve, http: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """500 in JSON, one error in the log, and the gateway lives."""
    site = await serve(echo, http=http)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
            answer = await peer.answer()
            assert (500, "internal_error") == (answer.status, answer.error)
            assert "x-evil" not in answer.headers
            assert await peer.rest() == b""
    await site.settle()
    (record,) = logged(caplog)
    assert record.exc_info is not None
