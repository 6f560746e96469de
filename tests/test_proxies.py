"""Proxies in front, on real sockets: whom the gateway takes a client for."""

import ssl
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trustme

from tests.handshake.heads import handshake
from trio_gateway import Gateway, HttpRequest, HttpResponse, Limits, Timeouts, Upgrade
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.serving import serve_websocket
from trio_gateway.settings import Proxies
from trio_gateway.transport.proxy_protocol import SIGNATURE

GUARD = 20.0
HERE = Proxies(trusted=("127.0.0.1",))
PREFACED = Proxies(protocol=True)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n"


def preface(address: bytes = b"\xc0\x00\x02\x07", *, local: bool = False, tlv: int = 0) -> bytes:
    body = address + b"\x7f\0\0\1" + struct.pack("!HH", 51234, 80) + bytes(tlv)
    return SIGNATURE + struct.pack("!BBH", 0x20 if local else 0x21, 0x11, len(body)) + body


async def tell(upgrade: Upgrade) -> None:
    """Tell a client who it is."""
    connection = await upgrade.accept()
    assert connection.client_address == upgrade.client_address
    host = "127.0.0.1" == str(getattr(upgrade.remote, "address", None))
    await connection.send_message(f"{upgrade.client_address} {upgrade.head.host} {host}")
    async for _ in connection:
        pass


async def answer(request: HttpRequest) -> HttpResponse | Refusal | None:
    return HttpResponse(status=200, body=request.remote.encode(), content_type="text/plain")


@attrs.define
class Site:
    """A gateway on a real port."""

    gateway: Gateway
    client_context: ssl.SSLContext | None

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[trio.SocketStream]:
        """Connect, below TLS."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.gateway.port)
        with trio.fail_after(GUARD):
            async with stream:
                yield stream

    async def talk(self, before: bytes, request: bytes) -> tuple[bytes, trio.abc.Stream]:
        """Send both, the first below TLS; return what comes first, and the stream."""
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", self.gateway.port)
        with trio.fail_after(GUARD):
            await stream.send_all(before)
            if self.client_context is not None:
                stream = trio.SSLStream(
                    stream, self.client_context, server_hostname="127.0.0.1", https_compatible=True
                )
            await stream.send_all(request)
            got = b""
            while b"\r\n\r\n" not in got or (b"101 Switching" in got and got.endswith(b"\r\n\r\n")):
                more = await stream.receive_some(4096)
                if not more:
                    break
                got += bytes(more)
        return got, stream

    async def who(self, *headers: bytes, before: bytes = b"") -> str:
        """Return what the handler is told of a client with these headers."""
        got, stream = await self.talk(before, handshake(*headers))
        await trio.aclose_forcefully(stream)
        return got.partition(b"\r\n\r\n")[2][2:].decode()


async def serve(nursery: trio.Nursery, tls: bool = False, **settings: Any) -> Site:
    server = client = None
    if tls:
        authority = trustme.CA()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)
    gateway = await nursery.start(
        partial(serve_websocket, tell, "127.0.0.1", 0, server, http=answer, **settings)
    )
    return Site(gateway, client)


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_a_trusted_proxy_is_believed(nursery: trio.Nursery, tls: bool) -> None:
    """Its header says who the client is; ``remote`` is still the socket's end."""
    site = await serve(nursery, tls, proxies=HERE)
    assert "192.0.2.7 gateway.test True" == await site.who(b"X-Forwarded-For: 1.2.3.4, 192.0.2.7")
    forwarded = b'Forwarded: for="[2001:db8::7]:4711";host=chat.test'
    assert "2001:db8::7 chat.test True" == await site.who(forwarded)
    assert "127.0.0.1 gateway.test True" == await site.who()
    nursery.cancel_scope.cancel()


async def test_nobody_is_believed_by_default(nursery: trio.Nursery) -> None:
    """Without a list the headers are headers."""
    site = await serve(nursery)
    assert "127.0.0.1 gateway.test True" == await site.who(b"X-Forwarded-For: 192.0.2.7")
    nursery.cancel_scope.cancel()


async def test_each_request_of_a_proxy_is_its_clients(nursery: trio.Nursery) -> None:
    """A proxy sends the requests of many on one connection."""
    site = await serve(nursery, proxies=HERE)
    requests = [GET % b"X-Forwarded-For: 192.0.2.7\r\n", GET % b"", GET % b"Forwarded: for=_a\r\n"]
    got = b""
    async with site.connect() as stream:
        await stream.send_all(b"".join(requests))
        while got.count(b"\r\n\r\n") < 3 or not got.endswith(b"_a"):
            got += await stream.receive_some(4096)
    assert [b"192.0.2.7", b"127.0.0.1", b"_a"] == [
        part.partition(b"HTTP/1.1")[0] for part in got.split(b"\r\n\r\n")[1:]
    ]
    nursery.cancel_scope.cancel()


async def test_what_a_proxy_garbles_is_refused(nursery: trio.Nursery) -> None:
    """400, and counted; the next client is served."""
    site = await serve(nursery, proxies=HERE)
    got, stream = await site.talk(b"", handshake(b"X-Forwarded-For: rubbish"))
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b'"bad_forwarded"' in got
    await trio.aclose_forcefully(stream)
    assert {400: 1} == site.gateway.statistics().refusals
    assert "192.0.2.7 gateway.test True" == await site.who(b"X-Forwarded-For: 192.0.2.7")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_clients_behind_a_proxy_are_told_apart(nursery: trio.Nursery, tls: bool) -> None:
    """Limits for one address count the clients, and give their places back."""
    limits = Limits(max_connections_per_ip=1)
    site = await serve(nursery, tls, proxies=attrs.evolve(HERE, protocol=True), limits=limits)
    streams: list[trio.abc.Stream] = []

    async def connect(before: bytes, *headers: bytes) -> bytes:
        got, stream = await site.talk(before, handshake(*headers))
        streams.append(stream)
        return got[9:12]

    here, local = preface(b"\x7f\0\0\1"), preface(local=True)
    assert b"101" == await connect(here, b"X-Forwarded-For: 192.0.2.7")
    assert b"429" == await connect(here, b"X-Forwarded-For: 192.0.2.7")
    assert b"101" == await connect(here, b"X-Forwarded-For: 192.0.2.8")
    assert b"101" == await connect(preface(b"\xc0\0\2\x09"), b"X-Forwarded-For: 192.0.2.7")
    assert b"429" == await connect(preface(b"\xc0\0\2\x09"))
    assert b"101" == await connect(local)
    assert {"too_many_connections_per_ip": 2} == site.gateway.statistics().limited
    for stream in streams:
        await trio.aclose_forcefully(stream)
    with trio.fail_after(GUARD):
        while site.gateway.statistics().sockets:  # noqa: ASYNC110  # nothing tells of it
            await trio.sleep(0.01)
    assert b"101" == await connect(here, b"X-Forwarded-For: 192.0.2.7")
    await trio.aclose_forcefully(streams[-1])
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_the_proxy_protocol(nursery: trio.Nursery, tls: bool) -> None:
    """The header comes before all else, TLS too; TLVs are skipped; LOCAL is the proxy itself."""
    site = await serve(nursery, tls, proxies=PREFACED)
    assert "192.0.2.7 gateway.test True" == await site.who(before=preface(tlv=300))
    assert "127.0.0.1 gateway.test True" == await site.who(before=preface(local=True))
    v6 = SIGNATURE + struct.pack("!BBH", 0x21, 0x21, 36) + b"\x20\x01\x0d\xb8" + bytes(32)
    assert "2001:db8:: gateway.test True" == await site.who(before=v6)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_a_header_that_dribbles(nursery: trio.Nursery, tls: bool) -> None:
    """Byte by byte it is the same header."""
    site = await serve(nursery, tls, proxies=PREFACED)
    async with site.connect() as stream:
        for number in preface():
            await stream.send_all(bytes([number]))
            await trio.lowlevel.checkpoint()
        if site.client_context is None:
            await stream.send_all(GET % b"Connection: close\r\n")
            got = b""
            while more := await stream.receive_some():
                got += more
            assert got.endswith(b"192.0.2.7")
        else:
            upper = trio.SSLStream(stream, site.client_context, server_hostname="127.0.0.1")
            await upper.do_handshake()
            await trio.aclose_forcefully(upper)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "data", [GET % b"", SIGNATURE + b"\x21\x99", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + GET % b""]
)
async def test_without_its_header_nobody_is_served(nursery: trio.Nursery, data: bytes) -> None:
    """400 at once in the clear; no answer below TLS, where it may be a ClientHello."""
    site = await serve(nursery, proxies=PREFACED)
    async with site.connect() as stream:
        await stream.send_all(data)
        got = b""
        while more := await stream.receive_some():
            got += more
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b'"bad_proxy_header"' in got
    below_tls = await serve(nursery, True, proxies=PREFACED)
    async with below_tls.connect() as stream:
        await stream.send_all(data)
        try:
            assert b"" == await stream.receive_some()
        except trio.BrokenResourceError:
            pass  # what was not read resets the connection
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("data", [b"", SIGNATURE, preface()[:-1]])
async def test_a_header_has_the_time_of_the_handshake(
    nursery: trio.Nursery, tls: bool, data: bytes
) -> None:
    """Whoever stays silent in the middle of it is let go."""
    site = await serve(
        nursery, tls, proxies=PREFACED, timeouts=Timeouts(handshake_timeout=0.1, linger_timeout=0.1)
    )
    async with site.connect() as stream:
        await stream.send_all(data)
        got = await stream.receive_some()
        assert got.startswith(b"HTTP/1.1 408 ") or (tls and not got)
    with trio.fail_after(GUARD):
        while site.gateway.statistics().sockets:  # noqa: ASYNC110  # nothing tells of it
            await trio.sleep(0.01)
    assert 0 == site.gateway.statistics().pending_handshakes
    nursery.cancel_scope.cancel()


async def test_with_a_list_only_those_may_write_it(nursery: trio.Nursery) -> None:
    """A header from anybody else is not even read: 403."""
    site = await serve(nursery, proxies=Proxies(trusted=("10.0.0.1",), protocol=True))
    got, stream = await site.talk(preface(), GET % b"")
    assert got.startswith(b"HTTP/1.1 403 ")
    assert b'"proxy_not_trusted"' in got
    await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()


async def test_unasked_it_is_no_request(nursery: trio.Nursery) -> None:
    """Without the setting, the bytes of a header are a bad request."""
    site = await serve(nursery)
    got, stream = await site.talk(preface(), GET % b"")
    assert got.startswith(b"HTTP/1.1 400 ")
    await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()
