"""permessage-deflate (RFC 7692), sans-I/O, the server's side.

In: what a client offers, compressed messages, frames to be sent. Out: an ``Agreement`` or None,
messages, frames. The rules: every message stands alone, since both sides always give up context
takeover (§7.1.1); so nothing is kept between messages, no send that is cancelled or refused can
damage the next, and one compressed frame serves everybody. Inflating stops one byte above the
limit. What would not shrink is sent as it is, which §6.1 leaves to the sender.
"""

import re
import zlib
from collections.abc import Callable, Iterable
from typing import Protocol

import attrs
from wsproto.frame_protocol import CloseReason, Opcode, ParseFailed

from trio_gateway.connection.frames import FrameDecoder, FrameEvent, Pieces, whole_frame
from trio_gateway.connection.masking import apply_mask
from trio_gateway.settings import Compression

_NAME = "permessage-deflate"
_RSV1 = 0x40
_TAIL = b"\x00\x00\xff\xff"  # taken off what is sent, put on what is received (§7.2.1, §7.2.2)
_MAX_WINDOW_BITS = 15
_WINDOW = 1 << _MAX_WINDOW_BITS

# Negotiation (§7.1).

_BITS: frozenset[str | None] = frozenset(str(bits) for bits in range(8, 16))
_ALLOWED: dict[str, frozenset[str | None]] = {
    "server_no_context_takeover": frozenset({None}),
    "client_no_context_takeover": frozenset({None}),
    "server_max_window_bits": _BITS,
    "client_max_window_bits": _BITS | {None},
}
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


@attrs.frozen
class Agreement:
    """What we have agreed to with a client.

    Attributes:
        window_bits: the base-2 logarithm of the window we compress with.
        header: the value of ``Sec-WebSocket-Extensions`` in the 101.
    """

    window_bits: int
    header: bytes


def agree(offers: Iterable[str], compression: Compression) -> Agreement | None:
    """Answer a client's offers: the first that we can keep, or None to decline them all.

    An offer is passed over if a parameter is unknown, comes twice or has a value it may not have
    (RFC 7692 §7.1), and if it asks for ``server_max_window_bits=8``: zlib makes no raw stream with
    a window of 256 bytes, and one with 512 would break what we promise. A
    ``client_max_window_bits`` of 8 is fine, because any window is inflated with the largest; for
    that reason the answer never limits the client's.

    Arguments:
        offers: one string an extension, in the client's order, names and parameters as sent.
        compression: what we are willing to do.
    """
    for offer in offers:
        parameters = _parameters(offer)
        if parameters is None:
            continue
        answer = [_NAME, "server_no_context_takeover", "client_no_context_takeover"]
        bits = compression.max_window_bits
        asked = parameters.get("server_max_window_bits")
        if asked == "8":
            continue
        if asked is not None:
            bits = min(bits, int(asked))
            answer.append(f"server_max_window_bits={bits}")
        return Agreement(bits, "; ".join(answer).encode("ascii"))
    return None


def _parameters(offer: str) -> dict[str, str | None] | None:
    """Return the parameters of a valid offer of this extension, or None for any other."""
    name, *rest = offer.split(";")
    if name.strip(" \t") != _NAME:
        return None
    parameters: dict[str, str | None] = {}
    for parameter in rest:
        key, equals, text = (part.strip(" \t") for part in parameter.partition("="))
        value = _unquoted(text) if equals else None
        if key in parameters or value not in _ALLOWED.get(key, ()):
            return None
        parameters[key] = value
    return parameters


def _unquoted(text: str) -> str:
    """A value may be quoted, and means the same then (RFC 6455 §9.1)."""
    quoted = _QUOTED.fullmatch(text)
    return text if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1])


# Receiving (§6.2, §7.2.2).

# The tail, and an empty final block: it ends the stream if, and only if, one may begin there.
_LAST_BLOCK = b"\x03\x00"
_END = _TAIL + _LAST_BLOCK
# A final block does not end a message (§7.2.1), but zlib has to be set up again after each.
_MAX_FINAL_BLOCKS = 16
_MESSAGE_COST = 64


def inflate(payload: bytes, max_bytes: int) -> bytes:
    """Return the message in the payload of its frames; never makes more than one byte too many.

    No payload at all is an empty message, for want of anything else that it could mean.

    Raises:
        ParseFailed: with 1009 for over ``max_bytes``, with 1007 for what is no DEFLATE or breaks
            off, with 1008 for more than 16 final blocks.
    """
    if not payload:
        return b""
    inflater = zlib.decompressobj(-_MAX_WINDOW_BITS)
    message, rest = b"", payload
    for _ in range(_MAX_FINAL_BLOCKS):
        try:
            message += inflater.decompress(rest, max_bytes + 1 - len(message))
            if len(message) > max_bytes:
                raise ParseFailed(f"message over {max_bytes} bytes", CloseReason.MESSAGE_TOO_BIG)
            if not inflater.eof:
                broken = inflater.decompress(_END, 1) or not inflater.eof
                # A final block that the tail completes has ended the stream before ours.
                if broken or inflater.unused_data not in (b"", _LAST_BLOCK):
                    raise zlib.error("the message breaks off")
                return message
        except zlib.error as error:
            text = f"cannot inflate: {error}"
            raise ParseFailed(text, CloseReason.INVALID_FRAME_PAYLOAD_DATA) from None
        rest = inflater.unused_data
        if not rest:  # not even the octet that §7.2.3.4 puts behind a final block
            return message
        inflater = zlib.decompressobj(-_MAX_WINDOW_BITS, message[-_WINDOW:])
    raise ParseFailed("too many final blocks", CloseReason.POLICY_VIOLATION)


def _nothing(_payload: bytes, _max_bytes: int) -> bytes:
    return b""


class InflatingDecoder(FrameDecoder):
    """Frames from a client with which permessage-deflate is agreed.

    A whole compressed message takes the short way. Of any other the frames are taken as
    those of a binary message, and it is inflated at its end.

    A few bytes inflate to many messages: when those of one ``feed()`` exceed a bound, the rest is
    held back for the next.

    Arguments:
        max_message_bytes: of one message, compressed and inflated.
        max_fragments: frames of one message.
        max_inflated_bytes: of the messages inflated in one ``feed()``, each counted with 64 bytes
            on top; the one that exceeds it is the last.

    Attributes:
        held_back: bytes wait for a ``feed()``, perhaps of nothing.
    """

    __slots__ = ("_inflate", "_kind", "_left_to_inflate", "_max_inflated_bytes", "held_back")

    def __init__(
        self, *, max_message_bytes: int, max_fragments: int, max_inflated_bytes: int
    ) -> None:
        super().__init__(max_message_bytes=max_message_bytes, max_fragments=max_fragments)
        self._inflate: Callable[[bytes, int], bytes] = inflate
        self._kind = 0
        self._max_inflated_bytes = self._left_to_inflate = max_inflated_bytes
        self.held_back = False

    def feed(self, data: bytes) -> list[FrameEvent]:
        self.held_back = False
        self._left_to_inflate = self._max_inflated_bytes
        return super().feed(data)

    def forget(self) -> None:
        """Inflate no more: nobody wants messages now, only the Close; they come out empty."""
        self._inflate = _nothing

    def _take_common(self, data: bytes, position: int, end: int, events: list[FrameEvent]) -> int:
        while position < end and not self.finished:
            if self._left_to_inflate <= 0:
                self._held = data[position:end]
                self.held_back = True
                return end
            if data[position] & _RSV1:
                stop = self._take_compressed(data, position, end, events)
            else:
                stop = super()._take_common(data, position, end, events)
            if stop == position:
                break
            position = stop
        return position

    def _take_compressed(
        self, data: bytes, position: int, end: int, events: list[FrameEvent]
    ) -> int:
        """Take one whole, final, compressed frame; return its end, or ``position`` without one."""
        first = data[position]
        if (first != 0xC1 and first != 0xC2) or end - position < 6 or self._pieces is not None:
            return position
        start = position + 6
        length = data[position + 1] - 0x80
        if length == 126:
            start += 2
            length = int.from_bytes(data[position + 2 : position + 4])
            if length < 126:
                return position
        stop = start + length
        if not 0 <= length <= self._max_message_bytes or data[position + 1] == 0xFF or stop > end:
            return position
        payload = apply_mask(data[start:stop], data[start - 4 : start])
        try:
            events.append(self._message(first & 0x0F, payload))
        except ParseFailed as error:
            self._fail(events, int(error.code), str(error))
        return stop

    def _take_other(self, data: bytes, position: int, end: int, events: list[FrameEvent]) -> int:
        first = data[position]
        kind = first & 0x0F
        opens = self._pieces is None and kind in {Opcode.TEXT, Opcode.BINARY}
        if not first & _RSV1 or not opens:
            return super()._take_other(data, position, end, events)
        self._kind = kind
        shown = first & ~_RSV1 & 0xF0 | Opcode.BINARY
        stop = self._take_frame(shown, data, position, end, events)
        if self._held:  # the header is not whole yet: it will be looked at again
            self._kind = 0
        return stop

    def _complete(self, pieces: Pieces) -> str | bytes:
        if not self._kind:
            return super()._complete(pieces)
        kind, self._kind = self._kind, 0
        payload = pieces.whole()
        assert isinstance(payload, bytes)
        return self._message(kind, payload)

    def _message(self, kind: int, payload: bytes) -> str | bytes:
        message = self._inflate(payload, self._max_message_bytes)
        self._left_to_inflate -= len(message) + _MESSAGE_COST
        if kind == Opcode.BINARY:
            return message
        try:
            return message.decode()
        except UnicodeDecodeError as error:
            raise ParseFailed(str(error), CloseReason.INVALID_FRAME_PAYLOAD_DATA) from None


# Sending (§6.1, §7.2.1).

_WHOLE_MESSAGES = frozenset({0x81, 0x82})
_MAX_KNOWN_BYTES = 4 * 1024 * 1024


class _Compressor(Protocol):
    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self, mode: int, /) -> bytes: ...


class SharedDeflater:
    """Compresses frames for all connections that have agreed to the same window.

    What it has compressed it remembers, by identity for the same bytes object offered to many, and
    frame by frame for the same publication joined to others: a fan-out is compressed once, in
    whatever company its frames come. It holds on to the last bytes object, and to 4 MiB of frames.

    Arguments:
        compression: level, memory and the size that is worth the work.
        window_bits: the agreed window.

    Attributes:
        compressed: messages that were compressed, for lack of a remembered one.
    """

    __slots__ = (
        "_compression",
        "_compressor",
        "_known",
        "_known_bytes",
        "_last",
        "_last_deflated",
        "_window_bits",
        "compressed",
    )

    def __init__(self, compression: Compression, window_bits: int) -> None:
        self._compression = compression
        self._window_bits = window_bits
        self._compressor: _Compressor | None = None
        self._last = self._last_deflated = b""
        self._known: dict[bytes, bytes] = {}
        self._known_bytes = 0
        self.compressed = 0

    def deflate(self, frames: bytes) -> bytes:
        """Return frames that say the same, compressed where that makes them shorter.

        Control frames, fragments and messages below ``Compression.min_bytes`` stay as they are, in
        their places. Takes some 10 ms for each MB at level 3, during which nothing else runs.

        Arguments:
            frames: whole, unmasked frames.
        """
        if frames is self._last:
            return self._last_deflated
        if len(frames) < self._compression.min_bytes:
            return frames
        pieces: list[bytes] = []
        position = 0
        while (extent := _extent(frames, position)) is not None:
            start, stop = extent
            frame = frames[position:stop]
            if frame[0] in _WHOLE_MESSAGES and stop - start >= self._compression.min_bytes:
                frame = self._known.get(frame) or self._compress(frame, start - position)
            pieces.append(frame)
            position = stop
        if position < len(frames):
            pieces.append(frames[position:])  # no frame of ours: the caller's business
        deflated = b"".join(pieces)
        self._last, self._last_deflated = frames, deflated
        return deflated

    def _compress(self, frame: bytes, header: int) -> bytes:
        # One compressor serves all messages, for a new one is a quarter of a megabyte to set up: a
        # full flush forgets what was before. It is put back only if nothing went wrong, a Ctrl-C
        # between the two calls included.
        compressor, self._compressor = self._compressor or self._new_compressor(), None
        data = compressor.compress(memoryview(frame)[header:])
        data += compressor.flush(zlib.Z_FULL_FLUSH)
        self._compressor = compressor
        self.compressed += 1
        deflated = whole_frame(frame[0] | _RSV1, data[: -len(_TAIL)])
        if len(deflated) >= len(frame):
            deflated = frame
        self._remember(frame, deflated)
        return deflated

    def _new_compressor(self) -> _Compressor:
        return zlib.compressobj(
            self._compression.level,
            zlib.DEFLATED,
            -self._window_bits,
            self._compression.mem_level,
        )

    def _remember(self, frame: bytes, deflated: bytes) -> None:
        known = self._known
        known[frame] = deflated
        self._known_bytes += len(frame) + len(deflated)
        while self._known_bytes > _MAX_KNOWN_BYTES and len(known) > 1:
            oldest = next(iter(known))
            self._known_bytes -= len(oldest) + len(known.pop(oldest))


class Deflaters:
    """One ``SharedDeflater`` for each window that a gateway's clients have agreed to.

    Arguments:
        compression: what the gateway is willing to do.
    """

    def __init__(self, compression: Compression) -> None:
        self.compression = compression
        self._shared: dict[int, SharedDeflater] = {}

    def shared(self, agreement: Agreement) -> SharedDeflater:
        """Return the one for an agreement."""
        bits = agreement.window_bits
        if bits not in self._shared:
            self._shared[bits] = SharedDeflater(self.compression, bits)
        return self._shared[bits]


def _extent(frames: bytes, position: int) -> tuple[int, int] | None:
    """Return where the payload of the unmasked frame at ``position`` begins and ends."""
    end = len(frames)
    if end - position < 2:
        return None
    length, start = frames[position + 1], position + 2
    if length == 126:
        start += 2
        length = int.from_bytes(frames[position + 2 : start])
    elif length == 127:
        start += 8
        length = int.from_bytes(frames[position + 2 : start])
    elif length > 127:
        return None
    return (start, start + length) if start + length <= end else None
