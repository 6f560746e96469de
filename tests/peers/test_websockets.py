"""PyPI's ``websockets`` talks to the gateway, with its own keepalive, from asyncio in a thread."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import pytest
import trio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.peers.gateway import GUARD, MEGABYTE, Site

T = TypeVar("T")
Talk = Callable[[ClientConnection], Awaitable[T]]


async def talk(site: Site, path: str, tls: bool, conversation: Talk[T], **arguments: Any) -> T:
    """Have a conversation in an event loop of its own."""

    async def main() -> T:
        async with (
            asyncio.timeout(GUARD),
            connect(
                site.url(path, tls=tls),
                ssl=site.certificates.client if tls else None,
                proxy=None,
                **arguments,
            ) as client,
        ):
            return await conversation(client)

    return await trio.to_thread.run_sync(asyncio.run, main())


async def test_messages(site: Site, tls: bool) -> None:
    """Text, bytes, nothing, and a megabyte come back."""

    async def conversation(client: ClientConnection) -> None:
        for message in ("text", b"bytes", "", b"", "ž🐎", "x" * MEGABYTE, bytes(MEGABYTE)):
            await client.send(message)
            assert await client.recv() == message

    await talk(site, "/echo", tls, conversation)


async def test_many_messages_at_once(site: Site, tls: bool) -> None:
    """A burst comes back in order."""

    async def conversation(client: ClientConnection) -> list[str | bytes]:
        async def send() -> None:
            for number in range(2000):
                await client.send(f"{number}")

        sending = asyncio.create_task(send())
        received = [await client.recv() for _ in range(2000)]
        await sending
        return received

    received = await talk(site, "/echo", tls, conversation)
    assert received == [f"{number}" for number in range(2000)]


async def test_fragmented_messages(site: Site, tls: bool) -> None:
    """Sent in pieces, some of them empty and some within a character, with a ping between two."""

    async def conversation(client: ClientConnection) -> None:
        async def pieces() -> AsyncIterator[str]:
            yield "one "
            yield ""
            await client.ping()
            yield "message"

        await client.send(pieces())
        assert await client.recv() == "one message"
        await client.send([b"\x00" * 70_000] * 10)
        assert await client.recv() == bytes(700_000)

    await talk(site, "/echo", tls, conversation)


async def test_its_keepalive(site: Site, tls: bool) -> None:
    """Many pings of its own are answered in time, though the handler never reads."""

    async def conversation(client: ClientConnection) -> float:
        await client.send("unread")
        await asyncio.sleep(0.3)
        return client.latency

    latency = await talk(
        site, "/sleep", tls, conversation, ping_interval=0.02, ping_timeout=GUARD / 2
    )
    assert latency > 0


async def test_pings_both_ways(site: Site, tls: bool) -> None:
    """Each side gets its pongs."""

    async def ours(client: ClientConnection) -> None:
        await (await client.ping())
        await (await client.ping(b"x" * 125))
        await client.pong(b"unasked")

    async def theirs(client: ClientConnection) -> str | bytes:
        return await client.recv()

    await talk(site, "/echo", tls, ours)
    assert await talk(site, "/ping", tls, theirs) == "polo"


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_compression_is_declined(site: Site, tls: bool, compression: str | None) -> None:
    """Offered or not, no extension is in use, and messages are plain."""

    async def conversation(client: ClientConnection) -> bool:
        await client.send("compress me " * 1000)
        assert await client.recv() == "compress me " * 1000
        request, response = client.request, client.response
        assert request is not None
        assert response is not None
        assert "Sec-WebSocket-Extensions" not in response.headers
        assert client.protocol.extensions == []
        return "Sec-WebSocket-Extensions" in request.headers

    offered = await talk(site, "/echo", tls, conversation, compression=compression)
    assert offered == (compression is not None)


@pytest.mark.parametrize(
    "code, reason", [(1000, ""), (1001, "going"), (3000, "é"), (4999, "")], ids=str
)
async def test_close_codes_both_ways(site: Site, tls: bool, code: int, reason: str) -> None:
    """Code and reason arrive, whoever closes."""

    async def ours(client: ClientConnection) -> tuple[int | None, str | None]:
        await client.close(code, reason)
        return client.close_code, client.close_reason

    async def theirs(client: ClientConnection) -> tuple[int | None, str | None]:
        with pytest.raises(ConnectionClosed):
            await client.recv()
        return client.close_code, client.close_reason

    closed, _ = await talk(site, "/told", tls, ours)
    assert closed == code
    with trio.fail_after(GUARD):
        assert await site.heard() == [(code, reason or None)]
    query = f"?reason={reason.replace('é', '%C3%A9')}" if reason else ""
    assert await talk(site, f"/close/{code}{query}", tls, theirs) == (code, reason)


async def test_too_large_a_message(site: Site, tls: bool) -> None:
    """It is told 1009, not cut off, though it is still sending."""

    async def main() -> int | None:
        async with asyncio.timeout(GUARD):
            # Not as a context manager: closing once more after the server has, it may crash.
            client = await connect(
                site.url("/echo", tls=tls),
                ssl=site.certificates.client if tls else None,
                proxy=None,
                compression=None,
            )
            with suppress(ConnectionClosed):
                await client.send(bytes(8 * MEGABYTE))
            await client.wait_closed()
            return client.close_code

    assert await trio.to_thread.run_sync(asyncio.run, main()) == 1009


async def test_subprotocols(site: Site, tls: bool) -> None:
    """Offered in order, selected by the handler, or not."""

    async def conversation(client: ClientConnection) -> tuple[str | None, str | bytes]:
        return client.subprotocol, await client.recv()

    for offered, selected in ((["soap", "chat.v2"], "chat.v2"), (["soap"], None)):
        subprotocols = [Subprotocol(name) for name in offered]
        answer = await talk(site, "/chat", tls, conversation, subprotocols=subprotocols)
        assert answer == (selected, ",".join(offered))


def give_up(error: Exception) -> Exception:
    """Do not try again, whatever the status."""
    return error


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_rejections(site: Site, tls: bool, status: int) -> None:
    """Status, header and body arrive."""

    async def conversation(client: ClientConnection) -> None:
        raise AssertionError

    with pytest.raises(InvalidStatus) as rejected:
        await talk(
            site,
            f"/reject/{status}",
            tls,
            conversation,
            process_exception=give_up,
        )
    response = rejected.value.response
    assert (response.status_code, response.body) == (status, b"not you")
    assert response.headers["X-Why"] == "because"


async def test_a_path_that_is_not_served(site: Site, tls: bool) -> None:
    """404 in JSON."""

    async def conversation(client: ClientConnection) -> None:
        raise AssertionError

    with pytest.raises(InvalidStatus) as rejected:
        await talk(site, "/nowhere", tls, conversation)
    assert rejected.value.response.status_code == 404
