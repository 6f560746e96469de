"""What a server says on one socket, judged as it comes: sans-I/O.

In: bytes, cut anywhere. Out: statuses, messages, pings, a close code; and complaints, each a rule
with a sentence. The rules: HTTP is read strictly (RFC 9112 §4 to §6), frames are wsproto's; a
socket says at most one 101, and no HTTP behind it; after a complaint of bytes nothing more is read.
"""

import re
from collections.abc import Callable

import attrs
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import Frame, FrameProtocol, Opcode, ParseFailed

from trio_gateway.storm.octets import ACCEPTS

_HEAD = re.compile(
    rb"HTTP/1\.[01] ([1-5][0-9][0-9]) ?[\t -~\x80-\xff]*\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
_HTTP = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")
# The same, as far as it has come.
_HTTP_BEGUN = re.compile(rb"H(T(T(P(/(1(\.([01]( [0-9]{0,2})?)?)?)?)?)?)?)?$")
_MAX_HEAD = 64 * 1024
_MAX_BODY = 16 * 1024 * 1024
_POSITION = re.compile(r'"position":\{"epoch":"([^"]+)","offset":([0-9]+)\}')
_TLS_ALERT = 0x15
# A SETTINGS frame on stream 0, with which an HTTP/2 server begins (RFC 9113 §3.4).
_H2_SETTINGS = re.compile(rb"\0\0[\0-\xff]\x04\0\0{4}", re.DOTALL)
_H2_HEADER = 9
_TAIL = 64


@attrs.frozen
class Complaint:
    """A rule that was broken, whoever the server is.

    Attributes:
        rule: its name.
        message: what was seen.
    """

    rule: str
    message: str


Message = str | bytes


@attrs.define(eq=False)
class Reader:
    """One socket's answers.

    Attributes:
        on_message: called with every whole message; None for nobody.
        head_only: the request was a HEAD: its answer has no body.
        status: of the first answer that is not a 1xx; 101 once there was one; ``"tls"`` for a TLS
            record, ``"h2"`` for a frame of HTTP/2; None before.
        answers: whole HTTP answers.
        messages: whole messages.
        pongs: of them there were so many.
        pings: payloads of pings that are not answered yet.
        close: the code of the Close frame; 1005 for none; None before.
        closing: the payload of the Close frame, until it is answered.
        position: where a chat's history stands, as ``EPOCH:OFFSET``.
        complaints: what was wrong.
        received: bytes.
    """

    on_message: Callable[[Message], None] | None = None
    head_only: bool = False
    status: int | str | None = None
    answers: int = 0
    messages: int = 0
    pongs: int = 0
    pings: list[bytes] = attrs.Factory(list)
    close: int | None = None
    closing: bytes | None = None
    position: str | None = None
    complaints: list[Complaint] = attrs.Factory(list)
    received: int = 0
    _buffer: bytes = b""
    _body: int | None = None
    _chunked: bool = False
    _until_end: bool = False
    _frames: FrameProtocol | None = None
    _parts: list[Message] = attrs.Factory(list)
    _tail: bytes = b""
    _goodbye: bytes = b""
    _unread: Exception | None = None
    _over: bool = False
    _deaf: bool = False

    @property
    def upgraded(self) -> bool:
        """Whether there was a 101."""
        return self._frames is not None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.received += len(data)
        if self._deaf:
            return
        if self._frames is not None:
            self._feed_frames(data)
            return
        self._buffer += data
        while self._buffer and not self._deaf and self._read_http():
            pass

    def feed_eof(self) -> None:
        """The server has sent its last byte."""
        self.finish()
        if self._deaf or self._frames is not None:
            return
        if self._until_end:
            self.answers += 1
        elif self._body or self._chunked:
            self._complain("malformed-answer", "the body ends before its length")
        elif self._buffer:
            self._complain(
                "malformed-answer", f"the head ends in its middle: {_show(self._buffer)}"
            )

    def finish(self) -> None:
        """Nothing more will be read: what was not certain yet is now. Idempotent."""
        self._over = True
        if self._unread is not None and not self._deaf:
            self._no_frame(self._tail, self._unread)

    # HTTP.

    def _read_http(self) -> bool:
        """Take one thing off the buffer; return whether there may be another."""
        if self._until_end:
            self._buffer = b""
            return False
        if self._chunked:
            return self._read_chunks()
        if self._body is not None:
            taken = min(self._body, len(self._buffer))
            self._body -= taken
            self._buffer = self._buffer[taken:]
            if self._body:
                return False
            self._body = None
            self.answers += 1
            return True
        return self._read_head()

    def _read_head(self) -> bool:
        buffer = self._buffer
        if self.status is None and buffer[0] == _TLS_ALERT:
            self.status, self._deaf = "tls", True
            return False
        if self.status is None and buffer[0] == 0 and len(buffer) < _H2_HEADER:
            return False
        if self.status is None and _H2_SETTINGS.match(buffer) is not None:
            self.status, self._deaf = "h2", True
            return False
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > _MAX_HEAD or b"HTTP/1."[: len(buffer)] != buffer[:7]:
                self._complain("malformed-answer", f"this is no HTTP: {_show(buffer)}")
            return False
        head, self._buffer = buffer[: end + 4], buffer[end + 4 :]
        found = _HEAD.fullmatch(head)
        if found is None:
            self._complain("malformed-answer", f"this is no HTTP head: {_show(head)}")
            return False
        status = int(found[1])
        fields = _fields(found[2])
        if status == 101:
            self._upgrade(fields)
            return False
        if status < 200:
            return True
        if self.status is None:
            self.status = status
        self._begin_body(status, fields)
        return True

    def _begin_body(self, status: int, fields: dict[bytes, list[bytes]]) -> None:
        lengths = fields.get(b"content-length", [])
        coded = fields.get(b"transfer-encoding", [])
        if lengths and coded:
            self._complain("malformed-answer", "an answer with a length and a transfer coding")
        elif len(set(lengths)) > 1 or not all(each.isdigit() for each in lengths):
            self._complain("malformed-answer", f"an answer of length {lengths}")
        elif status in (204, 304) or self.head_only:
            self.answers += 1
        elif coded:
            self._chunked = True
        elif lengths:
            self._body = int(lengths[0])
            if self._body > _MAX_BODY:
                self._complain("malformed-answer", f"an answer of {self._body} bytes")
            elif self._body == 0:
                self._body = None
                self.answers += 1
        else:
            self._until_end = True

    def _read_chunks(self) -> bool:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return False
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            self._complain("malformed-answer", f"a chunk of size {_show(line)}")
            return False
        if len(rest) < size + 2:
            return False
        self._buffer = rest[size + 2 :]
        if size == 0:
            self._chunked = False
            self.answers += 1
        return True

    def _upgrade(self, fields: dict[bytes, list[bytes]]) -> None:
        upgrade = b",".join(fields.get(b"upgrade", [])).strip().lower()
        if upgrade == b"h2c":
            self.status, self._deaf = 101, True  # an upgrade too, to what nobody reads here
            return
        options = {
            each.strip().lower() for each in b",".join(fields.get(b"connection", [])).split(b",")
        }
        accepts = fields.get(b"sec-websocket-accept", [])
        if upgrade != b"websocket" or b"upgrade" not in options:
            self._complain(
                "malformed-answer", "a 101 without Upgrade or Connection, RFC 6455 §4.2.2"
            )
        elif len(accepts) != 1:
            self._complain("malformed-answer", f"a 101 with {len(accepts)} Sec-WebSocket-Accept")
        elif accepts[0] not in ACCEPTS:
            # A key that was wrong or doubled has no right answer; what is told is told here.
            self.status = 101
        self.status = 101
        offered = b",".join(fields.get(b"sec-websocket-extensions", []))
        self._frames = FrameProtocol(client=True, extensions=_extensions(offered))
        rest, self._buffer = self._buffer, b""
        if rest and not self._deaf:
            self._feed_frames(rest)

    # Frames.

    def _feed_frames(self, data: bytes) -> None:
        assert self._frames is not None
        if self._unread is not None:
            self._no_frame(self._tail + data, self._unread)
        elif self.close is not None:
            self._behind_close(data)
        else:
            self._frames.receive_bytes(data)
            try:
                for frame in self._frames.received_frames():
                    self._take(frame)
            except ParseFailed as error:
                self._no_frame(self._tail + data, error)
            except Exception as error:  # a decompressor's, of the server's bytes
                self._complain("bad-frame", f"a frame that cannot be read: {error}")
            if self.close is not None:  # wsproto reads no further
                self._behind_close((self._tail + data).rpartition(self._goodbye)[2])
        self._tail = (self._tail + data)[-_TAIL:]

    def _no_frame(self, data: bytes, error: Exception) -> None:
        """Tell HTTP, which no frame begins with, from other bytes; that may take more of them."""
        http = _HTTP.search(data)
        if http is not None:
            self._http_behind(http, data)
        elif _HTTP_BEGUN.search(data) is not None and not self._over:
            self._unread = error
        else:
            self._complain("bad-frame", f"{error}: {_show(data[-_TAIL:])}")

    def _http_behind(self, http: re.Match[bytes], data: bytes) -> None:
        if http[1] == b"101":
            self._complain("second-101", "a second 101 on a socket that was upgraded")
        else:
            shown = _show(data[http.start() :])
            self._complain("http-after-101", f"an HTTP answer inside a WebSocket: {shown}")

    def _behind_close(self, data: bytes) -> None:
        """No data frame follows a Close (RFC 6455 §5.5.1); a late pong may."""
        http = _HTTP.search(data)
        if http is not None:
            self._http_behind(http, data)
        elif data and data[0] & 0x7F in (Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY):
            self._complain("frame-after-close", f"data behind the Close: {_show(data)}")

    def _take(self, frame: Frame) -> None:
        payload = frame.payload
        match frame.opcode:
            case Opcode.PING:
                assert isinstance(payload, bytes)
                self.pings.append(payload)
            case Opcode.PONG:
                self.pongs += 1
            case Opcode.CLOSE:
                assert isinstance(payload, tuple)
                self.close = int(payload[0])
                self.closing = b"" if self.close == 1005 else self.close.to_bytes(2)
                self._goodbye = _close_frame(self.closing, payload[1])
            case _:
                assert isinstance(payload, str | bytes)
                self._message(payload, whole=frame.message_finished)

    def _message(self, payload: Message, *, whole: bool) -> None:
        if self.on_message is not None and payload:
            self._parts.append(payload)
        if isinstance(payload, str) and (found := _POSITION.search(payload)) is not None:
            self.position = f"{found[1]}:{found[2]}"
        if whole:
            self.messages += 1
            if self.on_message is not None:
                parts, self._parts = self._parts, []
                if parts and isinstance(parts[0], bytes):
                    self.on_message(b"".join(part for part in parts if isinstance(part, bytes)))
                else:
                    self.on_message("".join(part for part in parts if isinstance(part, str)))

    def _complain(self, rule: str, message: str) -> None:
        self.complaints.append(Complaint(rule, message))
        self._deaf = True


def _close_frame(code: bytes, reason: str | None) -> bytes:
    """Return the Close frame that was read."""
    payload = code + (reason or "").encode()
    return bytes((0x88, len(payload))) + payload


def _fields(lines: bytes) -> dict[bytes, list[bytes]]:
    fields: dict[bytes, list[bytes]] = {}
    for line in lines.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b":")
            fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return fields


def _extensions(offered: bytes) -> list[Extension]:
    if not offered.strip().lower().startswith(b"permessage-deflate"):
        return []
    deflate = PerMessageDeflate()
    deflate.finalize(offered.decode("latin-1"))
    return [deflate]


def _show(data: bytes) -> str:
    return repr(data[:80])[1:]
