"""trio-websocket's client talks to the gateway."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from tests.dropin import client as trio_client
from tests.peers.gateway import GUARD, MEGABYTE, Site


def connect(
    site: Site, path: str, tls: bool, **arguments: Any
) -> AbstractAsyncContextManager[WebSocketConnection]:
    context = site.certificates.client if tls else None
    return trio_client.connect(site.gateways[tls].port, path, context, **arguments)


async def test_by_url(site: Site, tls: bool) -> None:
    """``open_websocket_url``, as its documentation begins."""
    context = site.certificates.client if tls else None
    with trio.fail_after(GUARD):
        async with open_websocket_url(site.url("/echo", tls=tls), context) as client:
            await client.send_message("hello world!")
            assert await client.get_message() == "hello world!"


async def test_messages(site: Site, tls: bool) -> None:
    """Text, bytes, nothing, and a megabyte come back."""
    async with connect(site, "/echo", tls) as client:
        for message in ("text", b"bytes", "", b"", "ž🐎", "x" * MEGABYTE, bytes(MEGABYTE)):
            await client.send_message(message)
            assert await client.get_message() == message
    assert client.closed is not None
    assert client.closed.code == 1000


async def test_too_large_a_message(site: Site, tls: bool) -> None:
    """One byte more than a megabyte: 1009."""
    async with connect(site, "/echo", tls) as client:
        await client.send_message(bytes(MEGABYTE + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await client.get_message()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1009


async def test_pings_both_ways(site: Site, tls: bool) -> None:
    """Each side gets its pongs."""
    async with connect(site, "/echo", tls) as client:
        await client.ping()
        await client.ping(b"x" * 125)
        await client.pong(b"unasked")
    async with connect(site, "/ping", tls) as client:
        assert await client.get_message() == "polo"


async def test_pings_to_a_handler_that_never_reads(site: Site, tls: bool) -> None:
    """They are answered all the same."""
    async with connect(site, "/sleep", tls) as client:
        await client.send_message("unread")
        await client.ping()


@pytest.mark.parametrize(
    "code, reason", [(1000, None), (1001, "going"), (3000, "é"), (4999, None)], ids=str
)
async def test_close_codes_both_ways(site: Site, tls: bool, code: int, reason: str | None) -> None:
    """Code and reason arrive, whoever closes."""
    async with connect(site, "/told", tls) as client:
        await client.aclose(code, reason)
    with trio.fail_after(GUARD):
        assert await site.heard() == [(code, reason)]
    query = "" if reason is None else f"?reason={reason.replace('é', '%C3%A9')}"
    async with connect(site, f"/close/{code}{query}", tls) as client:
        with pytest.raises(ConnectionClosed) as closed:
            await client.get_message()
    told = closed.value.reason
    assert told is not None
    assert (told.code, told.reason) == (code, reason)


async def test_subprotocols(site: Site, tls: bool) -> None:
    """Offered in order, selected by the handler, or not."""
    for offered, selected in ((["soap", "chat.v2"], "chat.v2"), (["soap"], None)):
        async with connect(site, "/chat", tls, subprotocols=offered) as client:
            assert client.subprotocol == selected
            assert await client.get_message() == ",".join(offered)


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429, 500, 503])
async def test_rejections(site: Site, tls: bool, status: int) -> None:
    """Status, header and body arrive."""
    rejection = await trio_client.knock(
        site.gateways[tls].port,
        f"/reject/{status}",
        tls=site.certificates.client if tls else None,
    )
    assert (rejection.status_code, rejection.body) == (status, b"not you")
    assert rejection.headers is not None
    assert (b"x-why", b"because") in rejection.headers
