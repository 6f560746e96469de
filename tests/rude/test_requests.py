"""What is no opening handshake gets its own HTTP answer, at once, and hurts nobody."""

import pytest
import trio
import trio.testing

from tests.rude.peer import KEY, Peer, handshake, json_of, name_of
from tests.rude.site import GUARD, Serve, echo
from trio_gateway import Upgrade

HOST = b"Host: gateway.test"


def lines(*request: bytes) -> bytes:
    """Return request lines with their ends and the empty line behind them."""
    return b"\r\n".join([*request, b"", b""])


CLIENT_HELLO = bytes.fromhex("16030100750100007103034b1f") + bytes(100)
BYTE = "byte above 0x7F in "

REFUSED: dict[str, tuple[bytes, int]] = {
    # No HTTP at all.
    "binary garbage": (bytes(range(256)), 400),
    "text garbage": (b"hello?\r\n\r\n", 400),
    "a line of spaces": (b"    \r\n\r\n", 400),
    "TLS ClientHello": (CLIENT_HELLO, 400),
    "SSH banner": (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", 400),
    "SOCKS5 greeting": (b"\x05\x01\x00", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    # Bad HTTP.
    "method alone": (b"GET\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "four words": (lines(b"GET / HTTP/1.1 please", HOST), 400),
    "bad version": (lines(b"GET / HTTQ/1.1", HOST), 400),
    "HTTP/3.0": (lines(b"GET / HTTP/3.0", HOST), 505),
    "unknown method": (lines(b"BREW / HTTP/1.1", HOST), 501),
    "bad target": (lines(b"GET no-slash HTTP/1.1", HOST), 400),
    "byte above 0x7F in the target": (lines(b"GET /\xff HTTP/1.1", HOST), 400),
    "target too long": (lines(b"GET /" + b"x" * 9000 + b" HTTP/1.1", HOST), 414),
    "no Host": (lines(b"GET / HTTP/1.1"), 400),
    "two Hosts": (lines(b"GET / HTTP/1.1", HOST, HOST), 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: gateway.test\n\n", 400),
    "bare CR": (lines(b"GET / HTTP/1.1", b"Host: gateway\r.test"), 400),
    "folded header": (lines(b"GET / HTTP/1.1", HOST, b"X-Folded: a", b"  b"), 400),
    "no colon": (lines(b"GET / HTTP/1.1", HOST, b"nonsense"), 400),
    "space before the colon": (lines(b"GET / HTTP/1.1", HOST, b"X-Name : a"), 400),
    "empty header name": (lines(b"GET / HTTP/1.1", HOST, b": a"), 400),
    "NUL in a header": (lines(b"GET / HTTP/1.1", HOST, b"X-Name: a\0b"), 400),
    "101 headers": (lines(b"GET / HTTP/1.1", HOST, *[b"X-Name: a"] * 100), 431),
    "17 KiB of headers": (lines(b"GET / HTTP/1.1", HOST, b"X-Name: " + b"a" * 17 * 1024), 431),
    "headers without end": (b"GET / HTTP/1.1\r\nX-Name: " + b"a" * 17 * 1024, 431),
    "negative length": (lines(b"POST / HTTP/1.1", HOST, b"Content-Length: -1"), 400),
    "two lengths": (
        lines(b"POST / HTTP/1.1", HOST, b"Content-Length: 1", b"Content-Length: 2"),
        400,
    ),
    "length and chunks": (
        lines(b"POST / HTTP/1.1", HOST, b"Content-Length: 1", b"Transfer-Encoding: chunked"),
        400,
    ),
    "gzipped body": (lines(b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: gzip, chunked"), 501),
    "body too large": (lines(b"POST / HTTP/1.1", HOST, b"Content-Length: 99999999"), 413),
    "bad chunk": (lines(b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: chunked") + b"zz\r\n", 400),
    "odd expectation": (lines(b"GET / HTTP/1.1", HOST, b"Expect: miracles"), 417),
    # HTTP, but nothing is served by it here.
    "plain GET": (lines(b"GET / HTTP/1.1", HOST), 404),
    "plain GET of a WebSocket path": (lines(b"GET /healthy HTTP/1.1", HOST), 426),
    "HTTP/1.0": (lines(b"GET /healthy HTTP/1.0"), 426),
    "h2c": (lines(b"GET /healthy HTTP/1.1", HOST, b"Upgrade: h2c", b"Connection: Upgrade"), 426),
    # No opening handshake (RFC 6455 §4.2.1).
    BYTE + "Host": (handshake("/", b"Host: gat\xe9way.test"), 400),
    BYTE + "Connection": (handshake("/", b"Connection: Upgrade, \xff"), 400),
    BYTE + "Upgrade": (handshake("/", b"Upgrade: websocket\xff"), 400),
    BYTE + "the subprotocols": (handshake("/", b"Sec-WebSocket-Protocol: ch\xe4t"), 400),
    BYTE + "the extensions": (handshake("/", b"Sec-WebSocket-Extensions: defl\xe4te"), 400),
    BYTE + "the key": (handshake("/", b"Sec-WebSocket-Key: \xff" + KEY[1:]), 400),
    BYTE + "the version": (handshake("/", b"Sec-WebSocket-Version: 13\xb2"), 400),
    "empty Host": (handshake("/", b"Host:"), 400),
    "Host with a path": (handshake("/", b"Host: gateway.test/x"), 400),
    "POST": (handshake(line=b"POST / HTTP/1.1"), 405),
    "handshake of HTTP/1.0": (handshake(line=b"GET / HTTP/1.0"), 505),
    "no Connection": (handshake(without=[b"Connection"]), 400),
    "Connection without Upgrade": (handshake("/", b"Connection: keep-alive"), 400),
    "no key": (handshake(without=[b"Sec-WebSocket-Key"]), 400),
    "empty key": (handshake("/", b"Sec-WebSocket-Key:"), 400),
    "short key": (handshake("/", b"Sec-WebSocket-Key: c2hvcnQ="), 400),
    "key of 17 bytes": (handshake("/", b"Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NTY="), 400),
    "key that is no base64": (handshake("/", b"Sec-WebSocket-Key: " + b"*" * 24), 400),
    "two keys": (handshake("/", *[b"Sec-WebSocket-Key: " + KEY] * 2), 400),
    "no version": (handshake(without=[b"Sec-WebSocket-Version"]), 400),
    "two versions": (handshake("/", *[b"Sec-WebSocket-Version: 13"] * 2), 400),
    "version 8": (handshake("/", b"Sec-WebSocket-Version: 8"), 426),
    "h2c and websocket": (handshake("/", b"Upgrade: h2c", b"Upgrade: websocket"), 400),
    "handshake with a body": (handshake("/", b"Content-Length: 4") + b"body", 413),
    "handshake with chunks": (handshake("/", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 413),
    "same subprotocol twice": (handshake("/", b"Sec-WebSocket-Protocol: chat, chat"), 400),
    "subprotocol that is no token": (handshake("/", b"Sec-WebSocket-Protocol: a b"), 400),
    "malformed extension": (handshake("/", b"Sec-WebSocket-Extensions: ;x"), 400),
}

refused = pytest.mark.parametrize("request_bytes, status", REFUSED.values(), ids=REFUSED.keys())
over_each = pytest.mark.parametrize("transport", ["tcp", "tls", "unix"], indirect=True)


async def never(upgrade: Upgrade) -> None:
    raise AssertionError("no handler is asked about this")


async def check_refusal(peer: Peer, status: int) -> None:
    answer = await peer.answer()
    assert status == answer.status
    assert answer.reason
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["connection"] == "close"
    assert set(json_of(answer)) == {"error", "message"}
    assert answer.body.count(b"\n") == 1
    if status == 426:
        assert answer.headers["sec-websocket-version"] == "13"
    assert await peer.rest() == b""


@over_each
@refused
async def test_it_is_answered(serve: Serve, request_bytes: bytes, status: int) -> None:
    """A status, a reason, a line of JSON, and an end of file that is no RST."""
    site = await serve(never)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(request_bytes)
            await check_refusal(peer, status)
    await site.settle()


@refused
async def test_it_is_answered_after_a_half_close(
    serve: Serve, request_bytes: bytes, status: int
) -> None:
    """A client that has said all it will say still reads its answer."""
    site = await serve(never)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(request_bytes)
            peer.send_eof()
            await check_refusal(peer, status)
    await site.settle()


@pytest.mark.parametrize("transport", ["tcp", "tls"], indirect=True)
@refused
async def test_its_sender_hangs_up_rudely(serve: Serve, request_bytes: bytes, status: int) -> None:
    """Bad HTTP, then an RST: the death of trio-websocket's server."""
    site = await serve(never)
    for cut in (len(request_bytes), len(request_bytes) // 2, 1):
        peer = await site.connect()
        await peer.send(request_bytes[:cut])
        await peer.reset()
    await site.settle()


@over_each
async def test_connections_that_say_nothing(serve: Serve) -> None:
    """A port scan, an early FIN and an RST cost nothing once they are over."""
    site = await serve(never)
    await (await site.connect()).reset()
    scanner = await site.connect_plainly()
    await trio.testing.wait_all_tasks_blocked()
    await scanner.aclose()
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            if not isinstance(peer.stream, trio.SSLStream):
                peer.send_eof()
                assert await peer.rest() == b""
    await site.settle()


async def test_an_unfinished_request_before_a_half_close(serve: Serve) -> None:
    """There is nobody to answer; the socket is not kept."""
    site = await serve(never)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake()[:-1])
            peer.send_eof()
            assert await peer.rest() == b""
    await site.settle()


WELCOME: dict[str, bytes] = {
    "as it is": handshake(),
    "Connection over two lines": handshake("/", b"Connection: keep-alive", b"Connection: Upgrade"),
    "Connection as a list": handshake("/", b"Connection: keep-alive , UPGRADE"),
    "mixed case": handshake("/", b"uPGRADE: WebSocket", b"CONNECTION: uPgRaDe"),
    "no space behind the colon": handshake().replace(b": ", b":"),
    "space around the key": handshake("/", b"Sec-WebSocket-Key:  \t" + KEY + b" \t"),
    "absolute-form": handshake("http://gateway.test/"),
    "absolute-form of ws": handshake("ws://gateway.test:80/"),
    "an empty line before it": b"\r\n" + handshake(),
    "HTTP/1.2": handshake(line=b"GET / HTTP/1.2"),
    "a bad IDN": handshake("/", b"Host: xn--99zzzzzzz"),
    "IPv6 host": handshake("/", b"Host: [::1]:3000"),
    "bytes above 0x7F where nobody looks": handshake("/", b"X-Name: Zo\xeb"),
    "percent-encoded target": handshake("/caf%C3%A9?n=%00&n=%ff"),
    "an offer of compression": handshake(
        "/", b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    ),
    "empty body": handshake("/", b"Content-Length: 0"),
    "100 headers": handshake("/", *[b"X-Name: a"] * 95),
}


@over_each
@pytest.mark.parametrize("request_bytes", WELCOME.values(), ids=WELCOME.keys())
async def test_legitimate_variety_is_welcome(serve: Serve, request_bytes: bytes) -> None:
    """What the RFCs allow is upgraded."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(request_bytes)
            answer = await peer.answer()
            assert answer.status == 101
            assert "sec-websocket-extensions" not in answer.headers
    await site.settle()


async def test_a_request_byte_by_byte(serve: Serve) -> None:
    """The cuts between segments mean nothing."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(*[bytes([byte]) for byte in handshake("/", b"X-Name: value")])
            assert (await peer.answer()).status == 101
    await site.settle()


def test_names_are_told_from_values() -> None:
    """The helper that replaces header lines goes by their names."""
    assert name_of(b"Upgrade: Host") == b"upgrade"
