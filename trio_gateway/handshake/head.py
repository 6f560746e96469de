"""The request head, read without I/O.

In: bytes as they arrive, cut anywhere. Out: a ``RequestHead``, or the ``Refusal`` that answers
them, or ``None`` while more are needed. The rules this file keeps:

- RFC 9112 and RFC 6455 §4.2.1 to the letter: what passes here surprises no parser behind it. No
  line ending but CR LF, no folding, one Host, one way to tell where the body ends.
- Bounded: bytes, header fields and target length; a waiting reader holds its bytes and no more.
- The verdict is a function of the bytes, never of their cuts, and it comes early: bad bytes at
  once, a method at its space, a line at its end, the rest at the empty line.
- A byte is looked at when it comes, not again with each that follows: dribbling costs linear time.
- No input raises: ``Refused`` becomes the refusal it carries.
"""

import re

import attrs

from trio_gateway.handshake.fields import (
    TCHAR,
    TOKEN,
    Fields,
    Refused,
    check_ascii,
    expects_continue_of,
    framing_of,
    host_of,
    is_authority,
    names_of,
)
from trio_gateway.handshake.offer import WebSocketOffer, offer_of
from trio_gateway.handshake.refusal import Refusal

_MAX_EMPTY_LINES = 2
_MAX_METHOD_BYTES = 32

_METHODS = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
}
# RFC 9110 §2.5: a higher minor version is understood as the highest that is known.
_VERSIONS = {b"HTTP/1.0": "1.0"} | {b"HTTP/1.%d" % minor: "1.1" for minor in range(1, 10)}

_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_TARGET = re.compile(rb'[!"$-~]++')
_ABSOLUTE_FORM = re.compile(rb"(?i:https?|wss?)://([^/?]*+)([^?]*+)(.*+)")
_NOT_IN_REQUEST_LINE = re.compile(rb"[^ -~]")
_NOT_IN_FIELD_LINE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_FIELD_LINES = re.compile(rb"(?:" + TCHAR + rb"++:[\t -~\x80-\xff]*+\r\n)*+")


@attrs.define
class RequestHead:
    """A request line and its header fields, checked.

    Attributes:
        method: a known method, upper case.
        target: in origin-form (``/path?query``; an absolute-form is reduced to it), visible ASCII,
            still percent-encoded; ``*`` for a server-wide ``OPTIONS``.
        headers: in order; names in lower case, values without surrounding whitespace.
        host: the authority of an absolute-form target, else the ``Host`` field, else ``None``; what
            a trusted proxy says that the client asked for comes before both.
        http_version: ``"1.1"``, also for higher minor versions, or ``"1.0"``.
        raw: the bytes of the head with its final CR LF CR LF; without empty lines before it.
        websocket: the offer, when this is a valid opening handshake.
        content_length: bytes of the body that follows; 0 without one, and when ``chunked``.
        chunked: the body comes in chunks.
        keep_alive: another request may follow on this socket (RFC 9112 §9.3). Not behind an opening
            handshake, nor in HTTP/1.0, where a server is free to decline.
        expects_continue: the client holds its body back until a 100 (RFC 9110 §10.1.1).
    """

    method: str
    target: str
    _headers: list[tuple[bytes, bytes]] | None = attrs.field(alias="headers", repr=False, eq=False)
    host: str | None
    http_version: str
    raw: bytes = attrs.field(repr=False)
    websocket: WebSocketOffer | None = None
    content_length: int = 0
    chunked: bool = False
    keep_alive: bool = True
    expects_continue: bool = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """All header fields."""
        if self._headers is None:
            return _split_fields(self.raw.split(b"\r\n")[1:-2])
        return self._headers

    def compact(self) -> None:
        """Keep the bytes alone: a connection may live for days, and is rarely asked again."""
        self._headers = None

    @property
    def path(self) -> str:
        """The target before the first ``?``, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query_string(self) -> str:
        """The target behind the first ``?``, still percent-encoded; empty without one."""
        return self.target.partition("?")[2]


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class HeadReader:
    """Reads one request head; the next request of the same socket takes a new reader.

    Arguments:
        max_head_bytes: the whole head with its last CR LF CR LF, in bytes.
        max_headers: header field lines.
        max_target_bytes: the request target as it was sent, in bytes.

    Attributes:
        rest: after a head, the bytes that came in behind it; after a refusal, nothing.
    """

    max_head_bytes: int = 16384
    max_headers: int = 100
    max_target_bytes: int = 8192
    rest: bytes = attrs.field(default=b"", init=False, repr=False)
    _buffer: bytearray | None = attrs.field(default=None, init=False, repr=False)
    _searched: int = attrs.field(default=0, init=False)
    _line: int = attrs.field(default=0, init=False)
    _field_count: int = attrs.field(default=0, init=False)
    _empty_lines: int = attrs.field(default=0, init=False)
    _decided: bool = attrs.field(default=False, init=False)

    def feed(self, data: bytes) -> RequestHead | Refusal | None:
        """Take the next bytes of the socket.

        Returns:
            The head once it is complete, a refusal as soon as it is certain, before that ``None``.

        Raises:
            RuntimeError: there was a head or a refusal already.
        """
        if self._decided:
            raise RuntimeError("this head is decided; give a new HeadReader what is in .rest")
        verdict: RequestHead | Refusal | None
        try:
            verdict = self._read(data)
        except Refused as refused:
            verdict = refused.refusal
        if verdict is not None:
            self._decided = True
            self._buffer = None
        return verdict

    def _read(self, data: bytes) -> RequestHead | None:
        text: bytes | bytearray = data
        if self._buffer is not None:
            self._buffer += data
            text = self._buffer
        while text.startswith(b"\r\n"):
            # RFC 9112 §2.2: ignore at least one empty line before the request line.
            self._empty_lines += 1
            if self._empty_lines > _MAX_EMPTY_LINES:
                raise Refused(400, "bad_request_line", "start with a request line")
            text = text[2:]
        end = text.find(b"\r\n\r\n", max(0, self._searched - 3), self.max_head_bytes)
        if end >= 0:
            head = self._head(bytes(text[: end + 4]))
            self.rest = bytes(text[end + 4 :])
            return head
        if text and text != b"\r":
            self._look_ahead(text)
        self._searched = len(text)
        if text is not self._buffer:
            self._buffer = bytearray(text)
        return None

    def _look_ahead(self, text: bytes | bytearray) -> None:
        """Refuse an unfinished head that can't become a good one; look at its new bytes only."""
        within = text[: self.max_head_bytes] if len(text) > self.max_head_bytes else text
        # A CR that came last may turn out to be a bare one.
        fresh = max(self._line, self._searched - 1)
        last = within.rfind(b"\r\n", fresh)
        if last >= 0:
            start = self._line
            if start == 0:
                start = within.index(b"\r\n", fresh) + 2
                self._request_line(within, start - 2)
            lines = bytes(within[start : last + 2])
            self._field_count += len(self._fields(lines, self._field_count))
            self._line = fresh = last + 2
        if self._line:
            _check_bytes(_NOT_IN_FIELD_LINE, within, fresh, len(within))
        else:
            self._begun_request_line(within, fresh, len(within))
        if len(text) > self.max_head_bytes:
            raise Refused(431, "head_too_large", "send fewer or shorter header fields")

    def _begun_request_line(self, text: bytes | bytearray, fresh: int, end: int) -> None:
        """Refuse what can't begin a request line: text up to ``end``, new from ``fresh`` on."""
        if text[0] == 0x16:  # the record type of a TLS ClientHello (RFC 8446 §5.1)
            raise Refused(
                400, "tls_on_plain_port", "this port has no TLS; use an http:// or ws:// URL"
            )
        method, space, _ = bytes(text[: _MAX_METHOD_BYTES + 1]).partition(b" ")
        if not TOKEN.fullmatch(method):
            raise Refused(400, "bad_request_line", "send HTTP: METHOD SP /target SP HTTP/1.1")
        # RFC 9112 §3: 501 for an unknown method, and for one too long to be known. CONNECT is among
        # them: a 405 lists the methods of a resource (RFC 9110 §15.5.6), and CONNECT names none.
        # The preface of HTTP/2 (RFC 9113 §3.4) begins with PRI and gets its 505 at the line's end.
        ended = space or len(method) > _MAX_METHOD_BYTES
        if ended and method not in _METHODS and method != b"PRI":
            raise Refused(501, "unknown_method", "use GET, HEAD, POST or another known method")
        limit = _MAX_METHOD_BYTES + len("  HTTP/1.1") + self.max_target_bytes
        _check_bytes(_NOT_IN_REQUEST_LINE, text, fresh, min(end, limit + 1))
        if end > limit and text[limit] != 0x0D:
            raise Refused(414, "target_too_long", "send a shorter URL")

    def _request_line(
        self, text: bytes | bytearray, end: int
    ) -> tuple[str, str, str, bytes | None]:
        """Return method, target in origin-form, version, and the authority of an absolute-form."""
        words = bytes(text[:end]).split(b" ")
        if len(words) == 3:
            word, target, protocol = words
            method = _METHODS.get(word)
            version = _VERSIONS.get(protocol)
            if (
                method is not None
                and version is not None
                and len(target) <= self.max_target_bytes
                and _TARGET.fullmatch(target)
            ):
                if target[0] == 0x2F:
                    return method, target.decode("ascii"), version, None
                if target == b"*" and method == "OPTIONS":
                    return method, "*", version, None
                if absolute := _ABSOLUTE_FORM.fullmatch(target):
                    authority, path, query = absolute.groups()
                    if not is_authority(authority):
                        raise Refused(400, "bad_host", "write http://HOST[:PORT]/path")
                    return method, ((path or b"/") + query).decode("ascii"), version, authority
        self._begun_request_line(text, 0, end)
        if len(words) != 3:
            raise Refused(400, "bad_request_line", "send METHOD SP /target SP HTTP/1.1, no more")
        word, target, protocol = words
        if not _VERSION.fullmatch(protocol):
            raise Refused(400, "bad_http_version", "end the request line with HTTP/1.1")
        if protocol not in _VERSIONS:
            raise Refused(505, "unsupported_http_version", "use HTTP/1.1")
        if word not in _METHODS:
            raise Refused(501, "unknown_method", "use GET, HEAD, POST or another known method")
        if len(target) > self.max_target_bytes:
            raise Refused(414, "target_too_long", "send a shorter URL")
        raise Refused(
            400, "bad_target", "send a target that begins with /, percent-encoded, no fragment"
        )

    def _fields(self, lines: bytes, already: int = 0) -> list[tuple[bytes, bytes]]:
        """Return the fields of complete lines, each with its CR LF."""
        split = lines.split(b"\r\n")
        split.pop()
        if not _FIELD_LINES.fullmatch(lines) or already + len(split) > self.max_headers:
            for number, line in enumerate(split, already + 1):
                _check_field_line(line)
                if number > self.max_headers:
                    raise Refused(431, "too_many_headers", "send fewer header fields")
        return _split_fields(split)

    def _head(self, raw: bytes) -> RequestHead:
        end = raw.index(b"\r\n")
        method, target, version, authority = self._request_line(raw, end)
        headers = self._fields(raw[end + 2 : -2])
        if not raw.isascii():
            check_ascii(headers)
        fields: Fields = {}
        for name, value in headers:
            if name in fields:
                fields[name].append(value)
            else:
                fields[name] = [value]
        host = host_of(fields, version, authority)
        content_length, chunked = framing_of(fields, version)
        has_body = chunked or content_length > 0
        expects_continue = expects_continue_of(fields)
        websocket = offer_of(fields, method, version, host, has_body)
        return RequestHead(
            method=method,
            target=target,
            headers=headers,
            host=host,
            http_version=version,
            raw=raw,
            websocket=websocket,
            content_length=content_length,
            chunked=chunked,
            keep_alive=(
                websocket is None
                and version == "1.1"
                and b"close" not in names_of(fields.get(b"connection", []))
            ),
            expects_continue=expects_continue and has_body and version == "1.1",
        )


def _split_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the fields of lines that are known to be right."""
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name.lower(), value.strip(b" \t")))
    return headers


def _check_bytes(illegal: re.Pattern[bytes], text: bytes | bytearray, start: int, end: int) -> None:
    found = illegal.search(text, start, end)
    if found is None:
        return
    at = found.start()
    if text[at] == 0x0D and at + 1 == len(text):
        return  # the LF may be on its way
    if text[at] in b"\r\n":
        raise Refused(400, "bare_line_ending", "end every line with CR LF")
    if illegal is _NOT_IN_REQUEST_LINE:
        raise Refused(400, "bad_target", "percent-encode what is not visible ASCII")
    raise Refused(400, "control_character", "send no control characters in a header field")


def _check_field_line(line: bytes) -> None:
    """Say what is wrong with a field line, if anything is (RFC 9112 §5)."""
    # The LF keeps a CR at the end of the line from passing for one whose LF is yet to come.
    _check_bytes(_NOT_IN_FIELD_LINE, line + b"\n", 0, len(line))
    if line[0] in b" \t":
        raise Refused(400, "folded_header", "send each header field on one line")
    name, colon, _ = line.partition(b":")
    if not colon:
        raise Refused(400, "missing_colon", "send header fields as NAME: VALUE")
    if not name:
        raise Refused(400, "empty_header_name", "put a name before the colon")
    if name[-1] in b" \t":
        raise Refused(400, "space_before_colon", "put the colon right behind the name")
    if not TOKEN.fullmatch(name):
        raise Refused(400, "bad_header_name", "use only token characters in a header name")
