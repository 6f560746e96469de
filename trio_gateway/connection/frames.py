"""Frames (RFC 6455 §5): sans-I/O, the server's side.

In: bytes, cut anywhere. Out: messages (``str`` or ``bytes``), wsproto's ``Ping``, ``Pong`` and
``CloseConnection``, or one ``Failure`` that says with which code the connection has to be failed.
The rules: a declared length is checked before anything of it is kept; a frame that is whole, final,
masked and not part of a fragmented message takes the short way; wsproto's ``FrameProtocol`` judges
all others, so that the two never differ in what they accept.
"""

import struct

import attrs
from wsproto.events import CloseConnection, Ping, Pong
from wsproto.frame_protocol import Frame, FrameProtocol, Opcode, ParseFailed

from trio_gateway.connection.masking import apply_mask
from trio_gateway.errors import CloseCode

_CONTROL = 0x08
_MASKED = 0x80
_LENGTH = 0x7F
_MAX_SHORT = 125
_MAX_REASON_BYTES = 123
# Close frames without a reason, as nearly every client sends them; wsproto judges the others.
_COMMON_CLOSES = frozenset({b"\x03\xe8", b"\x03\xe9"})


@attrs.frozen
class Failure:
    """The peer broke the protocol or a limit: close with ``code`` and read no more."""

    code: int
    reason: str


FrameEvent = str | bytes | Ping | Pong | CloseConnection | Failure


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
        "_fragments",
        "_held",
        "_left_of_frame",
        "_max_fragments",
        "_max_message_bytes",
        "_message_bytes",
        "_message_open",
        "_parts",
        "_protocol",
        "finished",
        "trailing",
    )

    def __init__(self, *, max_message_bytes: int, max_fragments: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_fragments = max_fragments
        self._held = b""
        self._protocol: FrameProtocol | None = None
        self._left_of_frame = 0
        self._message_open = False
        self._message_bytes = 0
        self._fragments = 0
        self._parts: list[str] | list[bytes] = []
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
            if self._left_of_frame:
                stop = min(position + self._left_of_frame, end)
                self._left_of_frame -= stop - position
                self._judge(data[position:stop], events)
                position = stop
                continue
            position = self._take_common(data, position, end, events)
            if position < end and not self.finished:
                position = self._take_other(data, position, end, events)
        self.trailing = self.trailing or (self.finished and position < end)
        return events

    def _take_common(self, data: bytes, position: int, end: int, events: list[FrameEvent]) -> int:
        """Take whole, final, masked frames for as long as there are; return where that ended."""
        while end - position >= 6 and not self._message_open:
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
            elif first == 0x89:
                events.append(Ping(payload))
            elif first == 0x8A:
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
        """Hand one frame, or the part of it that is there, to wsproto; return where that ended."""
        header = _header_size(data, position, end)
        fault = _fault(data[position : position + header])
        if fault is not None:
            self._fail(events, int(fault.code), str(fault))
            return end
        if header > end - position:
            self._held = data[position:]
            return end
        length = _payload_length(data, position)
        if self._admit(data[position], length, events):
            whole = position + header + length
            stop = min(whole, end)
            self._left_of_frame = whole - stop
            self._judge(data[position:stop], events)
            return stop
        return position

    def _admit(self, first: int, length: int, events: list[FrameEvent]) -> bool:
        """Count a frame that goes to wsproto against the limits of its message."""
        if first & _CONTROL:
            return True
        if not self._message_open:
            self._message_bytes = self._fragments = 0
        self._message_bytes += length
        self._fragments += 1
        self._message_open = True
        if self._message_bytes > self._max_message_bytes:
            reason = f"message over {self._max_message_bytes} bytes"
        elif self._fragments > self._max_fragments:
            reason = f"message of over {self._max_fragments} fragments"
        else:
            return True
        self._fail(events, CloseCode.MESSAGE_TOO_BIG, reason)
        return False

    def _judge(self, data: bytes, events: list[FrameEvent]) -> None:
        """Give wsproto the next bytes of one frame."""
        if self._protocol is None:
            self._protocol = FrameProtocol(client=False, extensions=[])
        self._protocol.receive_bytes(data)
        try:
            for frame in self._protocol.received_frames():
                self._take(frame, events)
        except ParseFailed as error:
            self._fail(events, int(error.code), str(error))
        if not self._message_open and not self._left_of_frame:
            self._protocol = None

    def _take(self, frame: Frame, events: list[FrameEvent]) -> None:
        payload = frame.payload
        match frame.opcode:
            case Opcode.PING:
                events.append(Ping(_bytes(payload)))
            case Opcode.PONG:
                events.append(Pong(_bytes(payload)))
            case Opcode.CLOSE:
                assert isinstance(payload, tuple)
                self.finished = True
                events.append(CloseConnection(code=int(payload[0]), reason=payload[1] or None))
            case _:
                self._parts.append(payload)  # type: ignore[arg-type]  # one kind per message
                if frame.message_finished:
                    empty: str | bytes = "" if frame.opcode is Opcode.TEXT else b""
                    events.append(empty.join(self._parts))  # type: ignore[arg-type]  # likewise
                    self._parts = []
                    self._message_open = False

    def _fail(self, events: list[FrameEvent], code: int, reason: str) -> None:
        if not self.finished:
            self.finished = True
            self._protocol = None
            self._parts = []
            events.append(Failure(code, reason))


def _bytes(payload: object) -> bytes:
    assert isinstance(payload, bytes | bytearray)
    return bytes(payload)


def _fault(header: bytes) -> ParseFailed | None:
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
        return error
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
