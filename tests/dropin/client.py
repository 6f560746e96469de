"""trio-websocket's client with a guard around it and its socket closed behind it.

It leaves its socket open when the server closes first or says no; a server then waits for its
``linger_timeout``, and a test run for the garbage collector.
"""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

GUARD = 20.0
"""Seconds after which a conversation is stuck."""


@asynccontextmanager
async def connect(
    port: int, resource: str = "/resource", tls: ssl.SSLContext | None = None, **arguments: Any
) -> AsyncGenerator[WebSocketConnection, None]:
    """Connect to 127.0.0.1, and close at the end as ``open_websocket`` does."""
    with trio.fail_after(GUARD):
        if tls is None:
            stream: Any = await trio.open_tcp_stream("127.0.0.1", port)
        else:
            stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", port, ssl_context=tls, https_compatible=True
            )
        try:
            async with trio.open_nursery() as nursery:
                client = await wrap_client_stream(
                    nursery, stream, f"127.0.0.1:{port}", resource, **arguments
                )
                async with client:
                    yield client
        finally:
            await trio.aclose_forcefully(stream)


async def knock(port: int, resource: str = "/resource", **arguments: Any) -> ConnectionRejected:
    """Be rejected."""
    with pytest.RaisesGroup(ConnectionRejected) as rejected:
        async with connect(port, resource, **arguments):
            raise AssertionError
    (rejection,) = rejected.value.exceptions
    assert isinstance(rejection, ConnectionRejected)
    return rejection
