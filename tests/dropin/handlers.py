"""Handlers as users of trio-websocket write them; this file knows nothing of trio_gateway.

``scripts/check`` type-checks it against trio-websocket alone, and ``typed_server.py`` hands every
handler to trio_gateway, so that neither the code nor its types may need a change.
"""

import math
from collections.abc import AsyncIterator

import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    Endpoint,
    WebSocketConnection,
    WebSocketRequest,
)


async def echo_server(request: WebSocketRequest) -> None:
    """The first example of the documentation: everything comes back."""
    ws = await request.accept()
    while True:
        try:
            message = await ws.get_message()
            await ws.send_message(message)
        except ConnectionClosed:
            break


async def reverse(request: WebSocketRequest) -> None:
    """The example server: texts come back from their end."""
    ws = await request.accept()
    while True:
        try:
            message = await ws.get_message()
        except ConnectionClosed:
            break
        await ws.send_message(message[::-1])


async def one_answer(request: WebSocketRequest) -> None:
    """Returning closes the connection."""
    ws = await request.accept()
    await ws.send_message("one")


async def in_a_context(request: WebSocketRequest) -> None:
    """The connection is a context manager that closes itself."""
    ws = await request.accept()
    async with ws:
        await ws.send_message("1")
        await ws.send_message(b"2")
    assert ws.closed is not None
    assert (ws.closed.code, ws.closed.name) == (1000, "NORMAL_CLOSURE")


async def heartbeat(ws: WebSocketConnection, patience: float, interval: float) -> None:
    """The recipe: ping, wait for the pong, pause, for ever."""
    while True:
        with trio.fail_after(patience):
            await ws.ping()
        await trio.sleep(interval)


async def with_a_heartbeat(request: WebSocketRequest) -> None:
    """A background task pings while the handler echoes; both end together."""
    ws = await request.accept()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heartbeat, ws, 5, 0.01)
            while (message := await ws.get_message()) != "stop":
                await ws.send_message(message)
            nursery.cancel_scope.cancel()
    except* ConnectionClosed:
        pass


async def with_background_tasks(request: WebSocketRequest) -> None:
    """One task receives, one sends, a channel lies between them."""
    ws = await request.accept()
    to_sender, from_receiver = trio.open_memory_channel[str | bytes](10)

    async def receive() -> None:
        async with to_sender:
            try:
                while True:
                    await to_sender.send(await ws.get_message())
            except ConnectionClosed:
                nursery.cancel_scope.cancel()

    async def send() -> None:
        async for number, message in enumerated(from_receiver):
            await ws.send_message(f"{number}: {message!r}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(send)


async def enumerated(
    channel: "trio.MemoryReceiveChannel[str | bytes]",
) -> AsyncIterator[tuple[int, str | bytes]]:
    number = 0
    async for message in channel:
        yield number, message
        number += 1


async def with_message_timeouts(request: WebSocketRequest) -> None:
    """A receive that is cancelled loses nothing."""
    ws = await request.accept()
    with trio.move_on_after(0.01) as waiting:
        await ws.get_message()
    assert waiting.cancelled_caught
    await ws.send_message("your turn")
    with trio.fail_after(10):
        await ws.send_message(await ws.get_message())


async def select_subprotocol(request: WebSocketRequest) -> None:
    """The first proposed one that is known; none if there is none."""
    known = [name for name in request.proposed_subprotocols if name in {"chat.v2", "chat.v1"}]
    ws = await request.accept(subprotocol=known[0] if known else None)
    await ws.send_message(f"{request.proposed_subprotocols} -> {ws.subprotocol}")


async def reject_strangers(request: WebSocketRequest) -> None:
    """A status, headers, and a body, unless the request carries the password."""
    if dict(request.headers).get(b"x-password") != b"swordfish":
        await request.reject(
            401,
            extra_headers=[(b"WWW-Authenticate", b"Password"), (b"Content-Type", b"text/plain")],
            body=b"who are you?",
        )
        return
    ws = await request.accept(extra_headers=[(b"X-Greeting", b"welcome")])
    await ws.send_message("come in")


async def describe(request: WebSocketRequest) -> None:
    """Everything that a request and a connection tell about themselves."""
    local, remote = request.local, request.remote
    assert isinstance(local, Endpoint)
    assert isinstance(remote, Endpoint)
    ws = await request.accept()
    assert isinstance(ws, WebSocketConnection)
    assert (str(ws.local), str(ws.remote)) == (str(local), str(remote))
    assert ws.is_server
    assert not ws.is_client
    assert ws.closed is None
    assert str(ws).startswith("server-")
    await ws.send_message(f"{request.path} {ws.path} {ws.subprotocol}")
    await ws.send_message(f"{local.url} {remote.address} {local.is_ssl}")
    await ws.send_message(b"|".join(name + b"=" + value for name, value in request.headers))


async def close_with_a_reason(request: WebSocketRequest) -> None:
    """A code and a reason; then every call says that it is over, and closing again is no error."""
    ws = await request.accept()
    await ws.aclose(code=4001, reason="because")
    await ws.aclose()
    for call in (ws.get_message, ws.ping, ws.pong):
        try:
            await call()
        except ConnectionClosed as closed:
            reason: CloseReason | None = closed.reason
            assert reason is not None
        else:
            raise AssertionError("the connection is closed")


async def pings_and_pongs(request: WebSocketRequest) -> None:
    """Pings with and without payload, pongs nobody asked for, and a mistake."""
    ws = await request.accept()
    await ws.ping()
    await ws.ping(b"payload")
    await ws.pong()
    await ws.pong(b"unasked")
    try:
        await ws.send_message(42)  # type: ignore[arg-type]  # the mistake
    except ValueError as error:
        await ws.send_message(str(error))


async def read_late(request: WebSocketRequest) -> None:
    """Messages that came in before the peer closed are still there."""
    ws = await request.accept()
    messages = [await ws.get_message()]
    while ws.closed is None:  # noqa: ASYNC110  # that is how a user can see it
        await trio.sleep(0.001)
    try:
        while True:
            messages.append(await ws.get_message())
    except ConnectionClosed as closed:
        received.append((messages, closed.reason))


received = list[tuple[list[str | bytes], CloseReason | None]]()
"""What ``read_late`` has read, and the reason it was given."""

UNLIMITED = math.inf
"""How trio-websocket's documentation turns a limit off."""
