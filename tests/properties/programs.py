"""Programs: what several clients send and several handlers do, as values that print and shrink.

In: Hypothesis. Out: a ``Program``. The rule: everything a run depends on is in the program, the
order in which Trio runs its tasks too.
"""

import struct
import zlib
from collections.abc import Iterator

import attrs
from hypothesis import strategies as st

from tests.properties.scheduling import orders

KEYS = (b"dGhlIHNhbXBsZSBub25jZQ==", b"AQIDBAUGBwgJCgsMDQ4PEA==")
MAX_MESSAGE_BYTES = 300
_MASK = b"\x37\xfa\x21\x3d"


def client_frame(first: int, payload: bytes = b"") -> bytes:
    """Return a client's frame; ``first`` is its first byte."""
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack("!H", length)
    masked = bytes(byte ^ _MASK[index % 4] for index, byte in enumerate(payload))
    return bytes([first]) + size + _MASK + masked


def _deflate(payload: bytes) -> bytes:
    """Compress a message as RFC 7692 §7.2.1 says."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def _upgrade(key: bytes, target: str = "/NUMBER", extra: bytes = b"") -> bytes:
    return (
        b"GET " + target.encode() + b" HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\n"
        b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: " + key + b"\r\n" + extra + b"\r\n"
    )


def _http(line: str, extra: str = "", body: str = "") -> bytes:
    return f"{line} HTTP/1.1\r\nHost: example.org\r\n{extra}\r\n{body}".encode()


_LONG = "the quick brown fox jumps over the lazy dog " * 5

_NUMBER = b"NUMBER"

# "NUMBER" stands for the client's number, which is its handler's path.
UPGRADES = {
    "upgrade": _upgrade(KEYS[0]),
    "upgrade with a subprotocol": _upgrade(KEYS[0], extra=b"Sec-WebSocket-Protocol: chat\r\n"),
    "upgrade with deflate": _upgrade(
        KEYS[0], extra=b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    ),
    "second upgrade": _upgrade(KEYS[1]),
}
HTTP = {
    "GET": _http("GET /plain"),
    "GET, then close": _http("GET /plain", "Connection: close\r\n"),
    "GET of a WebSocket path": _http("GET /NUMBER"),
    "GET of nothing": _http("GET /nothing"),
    "GET that hangs": _http("GET /hang"),
    "GET that fails": _http("GET /fail"),
    "GET answered with no answer": _http("GET /odd"),
    "GET answered with a header that cannot be sent": _http("GET /header"),
    "GET that is refused": _http("GET /refuse"),
    "POST": _http("POST /plain", "Content-Length: 5\r\n", "hello"),
    "POST in chunks": _http(
        "POST /plain", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"
    ),
    "POST with a body that lacks": _http("POST /plain", "Content-Length: 5\r\n", "he"),
    "POST with bad chunks": _http("POST /plain", "Transfer-Encoding: chunked\r\n", "zz\r\n"),
    "POST that expects a 100": _http(
        "POST /plain", "Content-Length: 5\r\nExpect: 100-continue\r\n"
    ),
    "POST of too much": _http("POST /plain", "Content-Length: 999999999\r\n"),
}
BAD_REQUESTS = {
    "upgrade of an unknown path": _upgrade(KEYS[0], "/unknown"),
    "upgrade with a short key": _upgrade(b"c2hvcnQ="),
    "upgrade to another version": _upgrade(KEYS[0]).replace(b": 13", b": 8"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01",
    "a bare line feed": b"GET / HTTP/1.1\nHost: x\n\n",
    "half a request": b"GET / HTTP/1.1\r\nHost: exa",
    "an empty line": b"\r\n",
}
FRAMES = {
    "text": client_frame(0x81, b"text"),
    "empty text": client_frame(0x81),
    "long text": client_frame(0x81, _LONG.encode()),
    "binary": client_frame(0x82, b"\x00\xff"),
    "ping": client_frame(0x89, b"ping"),
    "pong": client_frame(0x8A, b"heartbeat"),
    "fragment": client_frame(0x01, b"frag"),
    "last fragment": client_frame(0x80, b"ment"),
    "compressed text": client_frame(0xC1, _deflate(b"compressed " * 20)),
}
BAD_FRAMES = {
    "close": client_frame(0x88, struct.pack("!H", 1000) + b"bye"),
    "close without a code": client_frame(0x88),
    "close with a bad code": client_frame(0x88, struct.pack("!H", 1005)),
    "unmasked text": b"\x81\x02hi",
    "unknown opcode": client_frame(0x83, b"?"),
    "reserved bit": client_frame(0xC1, b"?"),
    "text that is no UTF-8": client_frame(0x81, b"\xff\xfe"),
    "message over the limit": client_frame(0x82, b"x" * (MAX_MESSAGE_BYTES + 1)),
    "compressed bomb": client_frame(0xC2, _deflate(bytes(100_000))),
    "long ping": client_frame(0x89, b"p" * 126),
    "half a frame": client_frame(0x81, b"whole")[:-2],
    "half a header": b"\x81",
}
PIECES = UPGRADES | HTTP | BAD_REQUESTS | FRAMES | BAD_FRAMES
_MESSAGES: dict[str, str | bytes] = {
    "text": "text",
    "empty text": "",
    "long text": _LONG,
    "binary": b"\x00\xff",
}


@attrs.frozen
class Send:
    """Pieces sent in one segment, or in several, cut at these places."""

    pieces: tuple[str, ...]
    cuts: tuple[int, ...] = ()

    def segments(self, number: int) -> Iterator[bytes]:
        """Yield the bytes to send at once."""
        data = b"".join(PIECES[piece] for piece in self.pieces).replace(_NUMBER, b"%d" % number)
        places = sorted({cut % len(data) for cut in self.cuts} - {0})
        for start, stop in zip([0, *places], [*places, len(data)], strict=True):
            yield data[start:stop]


@attrs.frozen
class Wait:
    """Nothing, for so many seconds."""

    seconds: float


@attrs.frozen
class Eof:
    """An end of file: the client sends no more, but reads on."""


@attrs.frozen
class Leave:
    """The client closes its socket, whatever may still come."""


@attrs.frozen
class Reset:
    """The connection breaks off."""


Step = Send | Wait | Eof | Leave | Reset
Steps = tuple[Step, ...]


@attrs.frozen
class Client:
    """What one client does; when it is through, it waits for the gateway to end the connection.

    Attributes:
        steps: in this order.
        reads: whether it takes what the gateway sends.
    """

    steps: Steps
    reads: bool = True

    @property
    def pieces(self) -> list[str]:
        """All it may send."""
        return [piece for step in self.steps if isinstance(step, Send) for piece in step.pieces]

    @property
    def stays(self) -> bool:
        """Whether it neither leaves nor breaks off."""
        return not any(isinstance(step, Leave | Reset) for step in self.steps)

    @property
    def eof(self) -> bool:
        """Whether it sends its end of file."""
        return Eof() in self.steps

    @property
    def asks_first(self) -> bool:
        """Whether it begins with a good upgrade, whole."""
        return bool(self.steps) and (
            isinstance(self.steps[0], Send) and self.steps[0].pieces[0] in UPGRADES
        )

    def may_bring(self, messages: list[str | bytes], *, compressed: bool) -> bool:
        """Whether its handler may receive these messages, if it begins with an upgrade."""
        expected: list[str | bytes] = []
        fragmented = False
        for piece in self.pieces[1:]:
            if piece == "fragment" and not fragmented:
                fragmented = True
            elif piece == "last fragment" and fragmented:
                fragmented = False
                expected.append("fragment")
            elif piece == "compressed text" and compressed and not fragmented:
                expected.append("compressed " * 20)
            elif piece in _MESSAGES and not fragmented:
                expected.append(_MESSAGES[piece])
            elif piece not in {"ping", "pong"}:
                # What comes behind half a frame is part of it, and nobody knows which message.
                doubtful = piece.startswith("half")
                return messages[: len(expected)] == expected[: len(messages)] and (
                    doubtful or len(messages) <= len(expected)
                )
        return messages == expected[: len(messages)]


# What a handler does, one after another; see ``deeds.py``. A conversation needs a connection.
CONVERSATION = ["echo", "read", "send", "send-much", "ping", "close", "disconnect"]
DECISIONS = ["accept", "accept-badly", "reject", "reject-badly", "race", "cancel-itself"]
FAILURES = ["fail", "fail-in-a-group", "crash-its-nursery", "stray-cancelled"]
OTHERS = ["wait", "hang", "swallow", "cancel-its-nursery", "cancel-its-scope"]
DEEDS = [*DECISIONS, *OTHERS, *FAILURES, *CONVERSATION]


@attrs.frozen
class HandlerScript:
    """What one handler does.

    Attributes:
        deeds: in this order; then it returns.
        careful: whether it goes on after ``UpgradeAlreadyDecided`` and ``ConnectionClosed``.
    """

    deeds: tuple[str, ...]
    careful: bool = False


@attrs.frozen
class Program:
    """One run.

    Attributes:
        clients: each with its handler.
        order: in which Trio runs its tasks.
        drain: when the gateway is drained, in seconds; None for not.
        cancel: when it is cancelled, whatever goes on; None for when all clients are through.
        buffer: what each direction of a connection holds.
        http: whether there is a handler for plain HTTP.
        compress: whether messages are compressed for clients that offer it.
    """

    clients: tuple[tuple[Client, HandlerScript], ...]
    order: int = 0
    drain: float | None = None
    cancel: float | None = None
    buffer: int = 4096
    http: bool = True
    compress: bool = False


# The simplest comes first: Hypothesis shrinks to it.
_any_piece = st.sampled_from([*FRAMES, *UPGRADES, *HTTP, *BAD_FRAMES, *BAD_REQUESTS])
_upgrade_piece = st.sampled_from([*UPGRADES])
_connection_piece = st.sampled_from([*FRAMES] * 8 + [*UPGRADES, *HTTP, *BAD_FRAMES, *BAD_REQUESTS])
_http_piece = st.sampled_from([*HTTP] * 4 + [*UPGRADES, *BAD_REQUESTS, *FRAMES])
_cuts = st.lists(st.integers(1, 400), max_size=3).map(tuple)


def _sends(first: st.SearchStrategy[str], rest: st.SearchStrategy[str]) -> st.SearchStrategy[Send]:
    pieces = st.tuples(first, st.lists(rest, max_size=4)).map(lambda two: (two[0], *two[1]))
    return st.builds(Send, pieces, _cuts)


def _steps(first: st.SearchStrategy[str], rest: st.SearchStrategy[str]) -> st.SearchStrategy[Steps]:
    """A first segment, then more of the same kind, pauses, and perhaps a rude end."""
    sends, waits = _sends(rest, rest), st.builds(Wait, st.sampled_from([0.01, 0.5, 1.0, 2.0, 4.0]))
    ends = st.sampled_from([None, None, None, Eof(), Leave(), Reset()])
    more = st.lists(st.one_of(sends, waits), max_size=4)
    return st.builds(_join, _sends(first, rest), more, ends, st.integers(0, 4))


def _join(first: Step, more: list[Step], end: Step | None, place: int) -> Steps:
    steps = [first, *more]
    if end is None:
        return tuple(steps)
    if isinstance(end, Eof):
        # It may wait behind its end of file, and go on reading, but not send.
        behind = [step for step in steps[place + 1 :] if isinstance(step, Wait)]
        return (*steps[: place + 1], end, *behind)
    return (*steps[: place + 1], end)


_client_steps = st.one_of(
    *(_steps(_upgrade_piece, _connection_piece) for _ in range(4)),
    _steps(_http_piece, _http_piece),
    _steps(_any_piece, _any_piece),
    st.just(()),
)
clients = st.builds(Client, _client_steps, st.sampled_from([True, True, True, False]))
_any_deeds = st.lists(st.sampled_from(DEEDS), max_size=5).map(tuple)
_echo = st.lists(st.sampled_from(["wait", "hang", "swallow"]), max_size=1).map(
    lambda deeds: (*deeds, "accept", "echo")
)
_conversation = st.lists(st.sampled_from([*CONVERSATION * 3, *DEEDS]), min_size=1, max_size=5).map(
    lambda deeds: ("accept", *deeds)
)
handlers = st.builds(HandlerScript, st.one_of(_echo, _conversation, _any_deeds), st.booleans())
_seldom = st.sampled_from([*[None] * 10, 0.01, 0.5, 2.0, 4.0])
programs = st.builds(
    Program,
    st.lists(st.tuples(clients, handlers), min_size=1, max_size=4).map(tuple),
    orders,
    _seldom,
    _seldom,
    st.sampled_from([4096, 100]),
    st.booleans(),
    st.booleans(),
)
