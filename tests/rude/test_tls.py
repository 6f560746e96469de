"""TLS and plain HTTP that meet on the wrong port, and TLS that breaks off."""

import ssl
from contextlib import suppress

import pytest
import trio
import trio.testing

from tests.rude.peer import Peer, close, frame, handshake
from tests.rude.site import GUARD, Certificates, Serve, echo

over_tls = pytest.mark.parametrize("transport", ["tls"], indirect=True)


@over_tls
@pytest.mark.parametrize(
    "plain",
    [handshake(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"G", b"\x00", b"SSH-2.0-x\r\n"],
    ids=["handshake", "GET", "one letter", "NUL", "SSH"],
)
async def test_plain_bytes_on_the_tls_port(serve: Serve, plain: bytes) -> None:
    """They are answered at once, in plain HTTP, and told what to do."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        async with Peer(await site.connect_plainly()) as peer:
            await peer.send(plain)
            answer = await peer.answer()
            assert (400, "plain_http_on_tls_port") == (answer.status, answer.error)
            assert await peer.rest() == b""
    await site.settle()


@over_tls
async def test_plain_bytes_on_the_tls_port_then_rst(serve: Serve) -> None:
    """Nor does it hurt when nobody waits for the answer."""
    site = await serve(echo)
    peer = Peer(await site.connect_plainly())
    await peer.send(handshake())
    await peer.reset()
    await site.settle()


async def test_a_tls_client_on_the_plain_port(serve: Serve, certificates: Certificates) -> None:
    """A real ClientHello is told at once that there is no TLS; its library sees no TLS alert."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        stream = trio.SSLStream(
            await site.connect_plainly(), certificates.client, server_hostname="127.0.0.1"
        )
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)
    await site.settle()


@over_tls
async def test_a_client_that_does_not_trust_us(serve: Serve) -> None:
    """It breaks the TLS handshake off with an alert."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        stream = trio.SSLStream(
            await site.connect_plainly(), ssl.create_default_context(), server_hostname="x.test"
        )
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)
    await site.settle()


HELLO = bytes.fromhex("16030100750100007103034b1f") + bytes(100)

BREAKS: dict[str, bytes] = {
    "an alert at once": bytes.fromhex("15030100020228"),
    "half a ClientHello": HELLO[:30],
    "a malformed ClientHello": HELLO,
    "a record of 64 KiB": b"\x16\x03\x01\xff\xff" + bytes(65535),
    "HTTP behind the first byte": b"\x16GET / HTTP/1.1\r\n\r\n",
}


@over_tls
@pytest.mark.parametrize("rude", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("sent", BREAKS.values(), ids=BREAKS.keys())
async def test_tls_handshakes_that_break(serve: Serve, sent: bytes, rude: bool) -> None:
    """Whatever was sent, the socket is given back."""
    site = await serve(echo)
    peer = Peer(await site.connect_plainly())
    await peer.send(sent)
    await trio.testing.wait_all_tasks_blocked()
    if rude:
        await peer.reset()
    else:
        await peer.stream.aclose()
    await site.settle()


@over_tls
@pytest.mark.parametrize("upgraded", [False, True], ids=["in the head", "in a conversation"])
async def test_garbage_under_tls(serve: Serve, upgraded: bool) -> None:
    """A broken record ends this stream and nothing else."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            if upgraded:
                await peer.upgrade()
            else:
                await peer.send(handshake()[:20])
            await peer.socket.send(b"\x17\x03\x03\x00\x10" + bytes(16))
            with suppress(trio.BrokenResourceError):
                assert await peer.rest() == b""
    await site.settle()


@over_tls
async def test_the_end_of_tls_is_said(serve: Serve, certificates: Certificates) -> None:
    """A strict client can tell a whole answer from a cut one: close_notify comes before the FIN."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        for request in (b"NONSENSE\r\n\r\n", handshake() + frame(3), handshake() + close()):
            stream = trio.SSLStream(
                await site.connect_plainly(), certificates.client, server_hostname="127.0.0.1"
            )
            async with Peer(stream) as peer:
                await peer.send(request)
                await peer.answer()
                await peer.rest()
    await site.settle()
