"""A gateway on a real socket, and the question behind every rude client: is all well again?

In: the handler under test. Out: a site that clients connect to. The rule: ``settle()`` passes only
if a healthy client is served and nothing is left of those before it.
"""

import math
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import attrs
import pytest
import trio
import trio.testing
import trio_websocket
import trustme
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection

from tests.rude.peer import Peer
from trio_gateway import Gateway, Handler, Heartbeat, Router, Statistics, Timeouts, Upgrade

GUARD = 10.0
"""Seconds after which a test is stuck. No test is as slow as that."""

Transport = Literal["tcp", "tls", "unix"]

PATIENT = Timeouts(
    handshake_timeout=60,
    body_timeout=60,
    response_timeout=60,
    keep_alive_timeout=60,
    send_timeout=60,
    closing_timeout=60,
    linger_timeout=60,
)
"""What ends before the guard has ended by itself, not by a deadline of the gateway."""


@attrs.frozen
class Certificates:
    """Both sides of TLS between people who trust each other."""

    server: ssl.SSLContext
    client: ssl.SSLContext

    @classmethod
    def issue(cls) -> "Certificates":
        authority = trustme.CA()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        return cls(server, client)


async def echo(upgrade: Upgrade) -> None:
    """Accept and send everything back."""
    connection = await upgrade.accept()
    try:
        while True:
            await connection.send_message(await connection.get_message())
    except ConnectionClosed:
        pass


async def open_listener(
    transport: Transport, certificates: Certificates, folder: Path
) -> "trio.SocketListener | trio.SSLListener[trio.SocketStream]":
    """Listen on a free port of 127.0.0.1, or on a socket in ``folder``."""
    if transport == "unix":
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(str(folder / "gateway"))
        sock.listen()
        return trio.SocketListener(sock)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    if transport == "tls":
        return trio.SSLListener(listener, certificates.server, https_compatible=True)
    return listener


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of; the caller's guard bounds it."""
    while not condition():  # noqa: ASYNC110  # figures and the kernel's sockets set no event
        await trio.sleep(0.001)


def code_of(reason: CloseReason | None) -> int | None:
    """Return the code of a close reason, which has no equality of its own."""
    return None if reason is None else reason.code


def descriptors() -> int:
    """Count this process's open descriptors."""
    return len(os.listdir("/proc/self/fd"))


class Site:
    """A gateway: an echo at ``/healthy``, the handler under test at every other path."""

    def __init__(
        self,
        handler: Handler,
        listener: "trio.abc.Listener[Any]",
        client_tls: ssl.SSLContext,
        **settings: Any,
    ) -> None:
        router = Router()
        router.route("/healthy", echo)
        router.fallback(handler)
        settings.setdefault("timeouts", PATIENT)
        settings.setdefault("heartbeat", Heartbeat(interval=math.inf))
        self.gateway = Gateway(router, [listener], **settings)
        inner = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
        assert isinstance(inner, trio.SocketListener)
        self.address = inner.socket.getsockname()
        self._client_tls = client_tls if isinstance(listener, trio.SSLListener) else None
        self._tasks = 0
        self._descriptors = 0

    async def open(self) -> None:
        """Take the warm baseline; call it once the gateway runs."""
        await self.healthy()
        with trio.fail_after(GUARD):
            await until(lambda: not (self.now.sockets or self.now.handlers))
        await trio.testing.wait_all_tasks_blocked()
        self._tasks = trio.lowlevel.current_statistics().tasks_living
        self._descriptors = descriptors()

    @property
    def now(self) -> Statistics:
        """The gateway's own figures."""
        return self.gateway.statistics()

    async def connect_plainly(self) -> trio.SocketStream:
        """Connect a socket, without TLS whatever the gateway speaks."""
        if isinstance(self.address, tuple):
            return await trio.open_tcp_stream(*self.address)
        return await trio.open_unix_socket(self.address)

    async def stream(self) -> "trio.SocketStream | trio.SSLStream[trio.SocketStream]":
        """Connect, with TLS where the gateway speaks it."""
        stream = await self.connect_plainly()
        if self._client_tls is None:
            return stream
        tls = trio.SSLStream(
            stream, self._client_tls, server_hostname="127.0.0.1", https_compatible=True
        )
        await tls.do_handshake()
        return tls

    async def connect(self) -> Peer:
        """Connect a rude client."""
        return Peer(await self.stream())

    @asynccontextmanager
    async def client(
        self, target: str = "/", **options: Any
    ) -> AsyncGenerator[WebSocketConnection, None]:
        """Connect a well-behaved client: trio-websocket's."""
        stream = await self.stream()
        try:
            async with trio.open_nursery() as nursery:
                client = await trio_websocket.wrap_client_stream(
                    nursery, stream, "gateway.test", target, **options
                )
                async with client:
                    yield client
        finally:
            # Where the server closes first, or says no, trio-websocket leaves it open.
            await trio.aclose_forcefully(stream)

    async def healthy(self) -> None:
        """A well-behaved client is served."""
        with trio.fail_after(GUARD):
            async with self.client("/healthy") as client:
                await client.send_message("still there?")
                assert await client.get_message() == "still there?"

    def left(self) -> dict[str, int]:
        """What is there that was not there before the rude client came."""
        now = self.now
        left = {
            "sockets": now.sockets,
            "pending handshakes": now.pending_handshakes,
            "pending upgrades": now.pending_upgrades,
            "connections": now.connections,
            "handlers": now.handlers,
            "tasks": trio.lowlevel.current_statistics().tasks_living - self._tasks,
            "descriptors": descriptors() - self._descriptors,
        }
        return {name: count for name, count in left.items() if count}

    async def settle(self) -> None:
        """A healthy client works and nothing is left of those before it."""
        await self.healthy()
        with trio.move_on_after(GUARD):
            await until(lambda: not self.left())
        if left := self.left():
            pytest.fail(f"left behind: {left}")


class Serve(Protocol):
    """The fixture that starts a site."""

    async def __call__(self, handler: Handler, **settings: Any) -> Site: ...
