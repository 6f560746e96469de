"""Frames (RFC 6455 §5): sans-I/O, the server's side.

In: bytes, cut anywhere. Out: messages (``str`` or ``bytes``), wsproto's ``Ping``, ``Pong`` and
``CloseConnection``, or one ``Failure`` that says with which code the connection has to be failed.
The rules: a declared length is checked before anything of it is kept; a frame that is whole, final,
masked and not part of a fragmented message takes the short way, other good data frames come in
piece by piece; what is wrong with a header, and what a Close says, wsproto's ``FrameProtocol``
judges, so that the two never differ in what they accept.
"""

import codecs
import struct

import attrs
from wsproto.events import CloseConnection, Ping, Pong
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from trio_gateway.connection.masking import apply_mask
from trio_gateway.errors import CloseCode

_FINAL = 0x80
_CONTROL = 0x08
_MASKED = 0x80
_LENGTH = 0x7F
_MAX_SHORT = 125
_MAX_MEDIUM = 0xFFFF
_MAX_LENGTH = 2**63 - 1
_MAX_REASON_BYTES = 123
_PING, _PONG = 0x89, 0x8A
# Close frames without a reason, as nearly every client sends them; wsproto judges the others.
_COMMON_CLOSES = frozenset({b"\x03\xe8", b"\x03\xe9"})
_utf8 = codecs.getincrementaldecoder("utf-8")


@attrs.frozen
class Failure:
    """The peer broke the protocol or a limit: close with ``code`` and read no more."""

    code: int
    reason: str


FrameEvent = str | bytes | Ping | Pong | CloseConnection | Failure


class Pieces:
    """A message that comes in pieces, and the frame of it that is being read."""

    __slots__ = ("final", "fragments", "key", "left", "parts", "size", "text")

    def __init__(self, opcode: int) -> None:
        self.text = _utf8() if opcode == Opcode.TEXT else None
        self.size = 0
        self.fragments = 0
        self.parts: list[str | bytes] = []  # of one kind
        self.final = False
        self.left = 0
        self.key = b""

    def add(self, piece: bytes) -> None:
        """Take the next of the payload, masked; raises UnicodeDecodeError for a text."""
        size = len(piece)
        piece = apply_mask(piece, self.key)
        self.left -= size
        if self.left:
            shift = size % 4
            self.key = self.key[shift:] + self.key[:shift]
        self.parts.append(piece if self.text is None else self.text.decode(piece))

    def whole(self) -> str | bytes:
        """Return the message; raises UnicodeDecodeError for half a character at its end."""
        if self.text is None:
            return b"".join(self.parts)  # type: ignore[arg-type]  # they are bytes
        self.text.decode(b"", final=True)
        return "".join(self.parts)  # type: ignore[arg-type]  # they are str


class FrameDecoder:
    """Frames from a client.

    Arguments:
        max_message_bytes: of one message, whatever it is made of.
        max_fragments: frames of one message.

    Attributes:
        finished: a Close or a failure was seen; what comes behind it is ignored.
        trailing: bytes came in behind the Close or the failure.
    """

    __slots__ = (
        "_held",
        "_max_fragments",
        "_max_message_bytes",
        "_pieces",
        "finished",
        "trailing",
    )

    def __init__(self, *, max_message_bytes: int, max_fragments: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_fragments = max_fragments
        self._held = b""
        self._pieces: Pieces | None = None
        self.finished = False
        self.trailing = False

    def feed(self, data: bytes) -> list[FrameEvent]:
        """Return what these bytes complete, in order; a ``Failure`` comes last."""
        events: list[FrameEvent] = []
        if self._held:
            data = self._held + data
            self._held = b""
        position, end = 0, len(data)
        while position < end and not self.finished:
            if self._pieces is None:
                position = self._take_common(data, position, end, events)
                if position == end or self.finished:
                    break
            elif self._pieces.left:
                stop = min(position + self._pieces.left, end)
                self._add(self._pieces, data[position:stop], events)
                position = stop
                continue
            position = self._take_other(data, position, end, events)
        self.trailing = self.trailing or (self.finished and position < end)
        return events

    def _take_common(self, data: bytes, position: int, end: int, events: list[FrameEvent]) -> int:
        """Take whole, final, masked frames for as long as there are; return where that ended."""
        while end - position >= 6:
            first, second = data[position], data[position + 1]
            length = second - _MASKED
            start = position + 6
            if length == 126:
                start += 2
                length = (data[position + 2] << 8) | data[position + 3]
                if length <= _MAX_SHORT:
                    break  # not the shortest form, which is an error (§5.2)
            elif not 0 <= length <= _MAX_SHORT:
                break
            stop = start + length
            if stop > end or length > self._max_message_bytes:
                break
            payload = apply_mask(data[start:stop], data[start - 4 : start])
            if first == 0x81:
                try:
                    events.append(payload.decode())
                except UnicodeDecodeError as error:
                    self._fail(events, CloseCode.INVALID_DATA, str(error))
                    return stop
            elif first == 0x82:
                events.append(payload)
            elif second > _MASKED | _MAX_SHORT:
                break
            elif first == _PING:
                events.append(Ping(payload))
            elif first == _PONG:
                events.append(Pong(payload))
            elif first == 0x88 and payload in _COMMON_CLOSES:
                self.finished = True
                events.append(CloseConnection(code=int.from_bytes(payload)))
                return stop
            else:
                break
            position = stop
        return position

    def _take_other(self, data: bytes, position: int, end: int, events: list[FrameEvent]) -> int:
        """Take the header of a data frame, or a control frame; return where that ended."""
        return self._take_frame(data[position], data, position, end, events)

    def _take_frame(
        self, first: int, data: bytes, position: int, end: int, events: list[FrameEvent]
    ) -> int:
        """As ``_take_other``, with ``first`` for the frame's first byte."""
        start = position + _header_size(data, position, end)
        length = _payload_length(data, position) if start <= end else None
        if length is None or not _is_good(first, data[position + 1], length):
            fault = _fault(bytes((first,)) + data[position + 1 : start])
            if fault is not None:
                self._fail(events, fault.code, fault.reason)
                return end
            if length is None or start + length > end:  # of a control frame: 125 at most
                self._held = data[position:end]
                return end
            self._take_control(data[position : start + length], events)
            return start + length
        if self._admit(first, length, events):
            assert self._pieces is not None
            self._pieces.key = data[start - 4 : start]
            if not length:
                self._add(self._pieces, b"", events)
        return start

    def _admit(self, first: int, length: int, events: list[FrameEvent]) -> bool:
        """Begin a data frame, unless it is out of order or exceeds the limits of its message."""
        opcode, pieces = first & 0x0F, self._pieces
        if (opcode == Opcode.CONTINUATION) != (pieces is not None):
            expected = "a continuation" if pieces is not None else "the beginning of a message"
            self._fail(events, CloseCode.PROTOCOL_ERROR, f"expected {expected}")
            return False
        if pieces is None:
            pieces = Pieces(opcode)
        pieces.size += length
        pieces.fragments += 1
        if pieces.size > self._max_message_bytes:
            reason = f"message over {self._max_message_bytes} bytes"
        elif pieces.fragments > self._max_fragments:
            reason = f"message of over {self._max_fragments} fragments"
        else:
            pieces.left = length
            pieces.final = first >= _FINAL
            self._pieces = pieces
            return True
        self._fail(events, CloseCode.MESSAGE_TOO_BIG, reason)
        return False

    def _add(self, pieces: Pieces, data: bytes, events: list[FrameEvent]) -> None:
        try:
            pieces.add(data)
            if pieces.final and not pieces.left:
                self._pieces = None
                events.append(self._complete(pieces))
        except UnicodeDecodeError as error:
            self._fail(events, CloseCode.INVALID_DATA, str(error))
        except ParseFailed as error:
            self._fail(events, int(error.code), str(error))

    def _complete(self, pieces: Pieces) -> str | bytes:
        """Return the message; raises UnicodeDecodeError and ParseFailed."""
        return pieces.whole()

    def _take_control(self, frame: bytes, events: list[FrameEvent]) -> None:
        """Take a whole control frame with a good header."""
        protocol = FrameProtocol(client=False, extensions=[])
        protocol.receive_bytes(frame)
        try:
            (told,) = protocol.received_frames()
        except ParseFailed as error:
            self._fail(events, int(error.code), str(error))
            return
        if told.opcode is Opcode.CLOSE:
            assert isinstance(told.payload, tuple)
            code, reason = told.payload
            self.finished = True
            events.append(CloseConnection(code=int(code), reason=reason or None))
        else:
            assert isinstance(told.payload, bytes | bytearray)
            make = Ping if told.opcode is Opcode.PING else Pong
            events.append(make(bytes(told.payload)))

    def _fail(self, events: list[FrameEvent], code: int, reason: str) -> None:
        self.finished = True
        self._pieces = None
        events.append(Failure(code, reason))


def _is_good(first: int, second: int, length: int) -> bool:
    """Whether a header is that of a data frame, without fault but for the order of frames."""
    if first & ~_FINAL > Opcode.BINARY or second < _MASKED:
        return False
    size = second & _LENGTH
    if size <= _MAX_SHORT:
        return True
    return length > _MAX_SHORT if size == 126 else _MAX_MEDIUM < length <= _MAX_LENGTH


def _fault(header: bytes) -> Failure | None:
    """Return what wsproto has against a header, or against the part of one that is there."""
    if header[0] & 0x0F == Opcode.CONTINUATION:
        # Whether a continuation may stand here is asked later; its header is one like any other.
        header = bytes((header[0] | Opcode.BINARY,)) + header[1:]
    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(header)
    try:
        for _ in protocol.received_frames():
            pass
    except ParseFailed as error:
        return Failure(int(error.code), str(error))
    return None


def _header_size(data: bytes, position: int, end: int) -> int:
    """Return the bytes of the header at ``position``; more than there are if it is not whole."""
    if end - position < 2:
        return 2 + 4
    length = data[position + 1] & _LENGTH
    extended = 0 if length <= _MAX_SHORT else 2 if length == 126 else 8
    return 2 + extended + (4 if data[position + 1] & _MASKED else 0)


def _payload_length(data: bytes, position: int) -> int:
    length = data[position + 1] & _LENGTH
    if length == 126:
        return (data[position + 2] << 8) | data[position + 3]
    if length == 127:
        return int.from_bytes(data[position + 2 : position + 10])
    return length


def text_frame(payload: bytes) -> bytes:
    """Return a final, unmasked text frame of UTF-8 (RFC 6455 §5.2)."""
    return whole_frame(0x81, payload)


def binary_frame(payload: bytes) -> bytes:
    """Return a final, unmasked binary frame (RFC 6455 §5.2)."""
    return whole_frame(0x82, payload)


def ping_frame(payload: bytes) -> bytes:
    """Return a Ping; raises ValueError for more than 125 bytes (RFC 6455 §5.5)."""
    return _control_frame(0x89, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return a Pong; raises ValueError for more than 125 bytes (RFC 6455 §5.5)."""
    return _control_frame(0x8A, payload)


def close_frame(code: int, reason: str | None = None) -> bytes:
    """Return a Close frame (RFC 6455 §5.5.1).

    Arguments:
        code: 1005 for none.
        reason: cut to the 123 bytes there is room for, between characters.

    Raises:
        ValueError: the reason cannot be UTF-8 (a lone surrogate).
    """
    if code == CloseCode.NO_STATUS:
        return b"\x88\x00"
    text = (reason or "").encode()
    if len(text) > _MAX_REASON_BYTES:
        text = text[:_MAX_REASON_BYTES].decode(errors="ignore").encode()
    return _control_frame(0x88, struct.pack("!H", code) + text)


def _control_frame(first: int, payload: bytes) -> bytes:
    if len(payload) > _MAX_SHORT:
        raise ValueError(f"a control frame carries at most 125 bytes, not {len(payload)}")
    return bytes((first, len(payload))) + payload


def whole_frame(first: int, payload: bytes) -> bytes:
    """Return an unmasked frame with ``first`` for its first byte (RFC 6455 §5.2)."""
    length = len(payload)
    if length <= _MAX_SHORT:
        return bytes((first, length)) + payload
    if length < 65536:
        return struct.pack("!BBH", first, 126, length) + payload
    return struct.pack("!BBQ", first, 127, length) + payload
