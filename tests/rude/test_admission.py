"""Who is not let in learns why, and takes nobody's place for longer than it stays."""

import math
from contextlib import AsyncExitStack

import pytest
import trio

from tests.rude.peer import Answer, Peer, handshake
from tests.rude.site import GUARD, PATIENT, Serve, Site, echo, until
from trio_gateway import Limits, Timeouts, Upgrade

over_each = pytest.mark.parametrize("transport", ["tcp", "tls", "unix"], indirect=True)
over_tcp_and_tls = pytest.mark.parametrize("transport", ["tcp", "tls"], indirect=True)


async def knock(site: Site, *headers: bytes) -> Answer:
    """Ask for an upgrade that will be refused; return the answer."""
    async with await site.connect() as peer:
        await peer.send(handshake("/", *headers))
        answer = await peer.answer()
        assert await peer.rest() == b""
    return answer


async def all_gone(site: Site) -> None:
    await until(lambda: not (site.now.sockets or site.now.handlers))


ENDS = ["close", "reset", "rejection"]


@over_each
async def test_the_cap_of_connections(serve: Serve) -> None:
    """One more than ``max_connections``: 503 with Retry-After, until one has left."""
    site = await serve(echo, limits=Limits(max_connections=2))
    with trio.fail_after(GUARD):
        for _ in range(3):
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    await (await stack.enter_async_context(await site.connect())).upgrade()
                answer = await knock(site)
                assert (503, "too_many_connections") == (answer.status, answer.error)
                assert int(answer.headers["retry-after"]) > 0
            await all_gone(site)
    await site.settle()


@over_tcp_and_tls
async def test_the_cap_per_address(serve: Serve) -> None:
    """One more from the same address: 429; other reasons to leave give the place back too."""
    site = await serve(echo, limits=Limits(max_connections_per_ip=1))
    with trio.fail_after(GUARD):
        for end in ("reset", "close", "protocol error", "FIN"):
            async with await site.connect() as peer:
                await peer.upgrade()
                answer = await knock(site)
                assert (429, "too_many_connections_per_ip") == (answer.status, answer.error)
                assert int(answer.headers["retry-after"]) > 0
                if end == "reset":
                    await peer.reset()
                elif end == "protocol error":
                    await peer.send(b"\xff\xff")
                    await peer.rest()
            await all_gone(site)
    await site.settle()


async def test_no_end_leaks_a_place(serve: Serve) -> None:
    """Fifty rude ends under a cap of one: SignalR and besu locked everybody out like that."""

    async def handler(upgrade: Upgrade) -> None:
        if upgrade.path == "/reject":
            await upgrade.reject(403)
        elif upgrade.path == "/fail":
            raise ValueError
        elif upgrade.path != "/return":
            await echo(upgrade)

    site = await serve(handler, limits=Limits(max_connections=1, max_connections_per_ip=1))
    with trio.fail_after(GUARD):
        for _ in range(10):
            for target in ("/", "/reject", "/fail", "/return", "/healthy"):
                peer = await site.connect()
                await peer.send(handshake(target))
                await peer.reset()
                await all_gone(site)
    await site.settle()


@over_each
async def test_the_cap_of_pending_handshakes(serve: Serve) -> None:
    """More half-open handshakes than allowed: 503 at once, for plain requests too."""
    site = await serve(echo, limits=Limits(max_pending_handshakes=3))
    with trio.fail_after(GUARD):
        async with AsyncExitStack() as stack:
            for _ in range(3):
                peer = await stack.enter_async_context(await site.connect())
                await peer.send(b"GET / HTTP/1.1\r\n")
            await until(lambda: site.now.pending_handshakes == 3)
            answer = await knock(site)
            assert (503, "too_many_handshakes") == (answer.status, answer.error)
            assert int(answer.headers["retry-after"]) > 0
    await site.settle()


@over_each
async def test_pending_handshakes_that_end_anyhow(serve: Serve) -> None:
    """Each way out of the handshake frees the place: plain HTTP, kept alive or not, above all."""

    async def http(request: object) -> None:
        return None

    site = await serve(echo, limits=Limits(max_pending_handshakes=1), http=http)
    plain = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n"
    requests = [plain + b"\r\n", plain + b"Connection: close\r\n\r\n", b"NONSENSE\r\n\r\n"]
    with trio.fail_after(GUARD):
        for request in requests * 3:
            async with await site.connect() as peer:
                await peer.send(request)
                assert (await peer.answer()).status != 503
            await all_gone(site)
    await site.settle()


ORIGINS: dict[str, tuple[list[bytes], int]] = {
    "the one": ([b"Origin: https://good.example"], 101),
    "the one in capitals": ([b"Origin: HTTPS://Good.Example"], 101),
    "no browser": ([], 101),
    "another": ([b"Origin: https://evil.example"], 403),
    "the one as a prefix": ([b"Origin: https://good.example.evil.example"], 403),
    "the one without TLS": ([b"Origin: http://good.example"], 403),
    "the one on another port": ([b"Origin: https://good.example:8443"], 403),
    "null": ([b"Origin: null"], 403),
    "empty": ([b"Origin:"], 403),
    "both": ([b"Origin: https://good.example", b"Origin: https://evil.example"], 403),
    "bytes above 0x7F": ([b"Origin: https://g\xf6\xf6d.example"], 403),
}


@pytest.mark.parametrize("headers, status", ORIGINS.values(), ids=ORIGINS.keys())
async def test_origins(serve: Serve, headers: list[bytes], status: int) -> None:
    """Only the allowed ones, letter for letter, and whoever is no browser."""
    site = await serve(echo, allowed_origins=["https://good.example"])
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake("/", *headers))
            answer = await peer.answer()
            assert status == answer.status
            if status == 403:
                assert answer.error == "origin_not_allowed"
                assert await peer.rest() == b""
    await site.settle()


SLOW = Timeouts(handshake_timeout=0.15, linger_timeout=60, closing_timeout=60, body_timeout=0.15)


async def drip(peer: Peer, data: bytes) -> None:
    """Send a byte now and then, for ever."""
    try:
        for byte in data * 1000:
            await peer.stream.send_all(bytes([byte]))
            await trio.sleep(0.01)
    except trio.BrokenResourceError:
        pass  # the gateway has had enough


@over_each
async def test_a_slow_loris_in_the_head(serve: Serve) -> None:
    """A header that never ends gets 408 after ``handshake_timeout``, dripping or not."""
    site = await serve(echo, timeouts=SLOW)
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery, await site.connect() as peer:
            await peer.send(b"GET / HTTP/1.1\r\nX-Name: ")
            nursery.start_soon(drip, peer, b"a")
            answer = await peer.answer()
            assert (408, "handshake_timeout") == (answer.status, answer.error)
            assert await peer.rest() == b""
            nursery.cancel_scope.cancel()
    await site.settle()


@over_each
async def test_a_client_that_says_nothing(serve: Serve) -> None:
    """It is told 408 too, and is gone."""
    site = await serve(echo, timeouts=SLOW)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            assert (await peer.answer()).status == 408
            assert await peer.rest() == b""
    await site.settle()


async def test_a_slow_loris_in_the_body(serve: Serve) -> None:
    """The body of a plain request has its deadline as well."""

    async def http(request: object) -> None:
        return None

    site = await serve(echo, timeouts=SLOW, http=http)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            answer = await peer.answer()
            assert (408, "body_timeout") == (answer.status, answer.error)
            assert await peer.rest() == b""
    await site.settle()


@pytest.mark.parametrize("transport", ["tls"], indirect=True)
@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "begun"])
async def test_a_slow_loris_in_the_tls_handshake(serve: Serve, begun: bytes) -> None:
    """There is no way to answer: it is dropped after ``handshake_timeout``."""
    site = await serve(echo, timeouts=Timeouts(handshake_timeout=0.15, closing_timeout=60))
    with trio.fail_after(GUARD):
        async with Peer(await site.connect_plainly()) as peer:
            await peer.send(begun)
            await peer.rest()
    await site.settle()


async def test_a_patient_gateway_and_an_endless_deadline(serve: Serve) -> None:
    """``math.inf`` turns a deadline off, as in trio-websocket."""
    timeouts = Timeouts(handshake_timeout=math.inf, closing_timeout=math.inf)
    site = await serve(echo, timeouts=timeouts)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
    await site.settle()


async def test_idle_plain_connections_are_closed_in_silence(serve: Serve) -> None:
    """Between two requests nobody is answered 408 (RFC 9112 §9.5)."""

    async def http(request: object) -> None:
        return None

    site = await serve(echo, timeouts=Timeouts(keep_alive_timeout=0.1), http=http)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await peer.answer()).status == 404
            assert await peer.rest() == b""
    await site.settle()


def test_the_patient_timeouts_are_patient() -> None:
    """What ends here ends by the deadline under test alone."""
    assert PATIENT.handshake_timeout > GUARD
