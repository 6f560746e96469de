"""Header fields, and what single ones mean: sans-I/O.

In: the lines of each field. Out: its meaning, or ``Refused`` with the answer. The rule: a field
that could be read in two ways is refused, for a parser behind this one might read the other.
"""

import re
from ipaddress import IPv6Address

from trio_gateway.handshake.refusal import Refusal

Fields = dict[bytes, list[bytes]]
"""The values of each field by its lower-case name, in order."""

_MAX_LENGTH_DIGITS = 18
_MAX_PORT = 65535
TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TOKEN = re.compile(TCHAR + rb"++")
_HOST = re.compile(
    rb"(\[[0-9A-Fa-f:.]++\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]++|%[0-9A-Fa-f]{2})*+)(?::([0-9]{0,5}))?"
)


class Refused(Exception):
    """What was read is refused; caught where the reading began."""

    def __init__(self, status: int, error: str, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(error)
        self.refusal = Refusal(status, error, message, headers)


def check_ascii(headers: list[tuple[bytes, bytes]]) -> None:
    """Obs-text is opaque data (RFC 9110 §5.5), but no part of a name or token we act upon."""
    for name, value in headers:
        if value.isascii():
            continue
        if name in (b"host", b"connection", b"upgrade") or name.startswith(b"sec-websocket-"):
            raise Refused(400, "non_ascii_header", f"send {name.decode('ascii')} in ASCII")


def is_authority(value: bytes) -> bool:
    """Tell whether this is ``host [":" port]`` (RFC 3986 §3.2); no name is ever decoded."""
    parts = _HOST.fullmatch(value)
    if parts is None:
        return False
    host, port = parts.groups()
    if host[:1] == b"[":
        try:
            IPv6Address(host[1:-1].decode("ascii"))
        except ValueError:
            return False
    return bool(host) and (not port or int(port) <= _MAX_PORT)


def elements_of(values: list[bytes]) -> list[bytes]:
    """Return the elements of a list field's lines, without empty ones (RFC 9110 §5.6.1)."""
    return [element for part in b",".join(values).split(b",") if (element := part.strip(b" \t"))]


def names_of(values: list[bytes]) -> list[bytes]:
    """Return the elements of a list of case-insensitive names, in lower case."""
    return [element.lower() for element in elements_of(values)]


def host_of(fields: Fields, version: str, authority: bytes | None) -> str | None:
    """RFC 9112 §3.2."""
    values = fields.get(b"host")
    if values is None:
        if version == "1.1":
            raise Refused(400, "missing_host", "send a Host header field")
        return None if authority is None else authority.decode("ascii")
    if len(values) > 1:
        raise Refused(400, "duplicate_host", "send one Host header field")
    # Empty when the target has no authority: a health check, for one.
    if values[0] and not is_authority(values[0]):
        raise Refused(400, "bad_host", "send Host: NAME[:PORT]")
    return (values[0] if authority is None else authority).decode("ascii")


def framing_of(fields: Fields, version: str) -> tuple[int, bool]:
    """Return the length of the body, and whether it is chunked instead (RFC 9112 §6)."""
    codings = fields.get(b"transfer-encoding")
    lengths = fields.get(b"content-length")
    if codings is not None:
        if lengths is not None:
            raise Refused(
                400, "ambiguous_length", "send Content-Length or Transfer-Encoding, not both"
            )
        if version == "1.0":
            raise Refused(
                400, "transfer_encoding_in_http_1_0", "use HTTP/1.1 for Transfer-Encoding"
            )
        if names_of(codings) != [b"chunked"]:
            raise Refused(501, "unsupported_transfer_encoding", "use chunked, and nothing else")
        return 0, True
    if lengths is None:
        return 0, False
    distinct = {length.strip(b" \t") for length in b",".join(lengths).split(b",")}
    if not all(length.isdigit() for length in distinct):
        raise Refused(400, "bad_content_length", "send Content-Length in decimal digits")
    if len(distinct) > 1:
        raise Refused(400, "conflicting_content_length", "send one Content-Length")
    length = distinct.pop()
    if len(length) > _MAX_LENGTH_DIGITS:
        raise Refused(413, "body_too_large", "send a smaller body")
    return int(length), False


def expects_continue_of(fields: Fields) -> bool:
    """RFC 9110 §10.1.1."""
    expectations = fields.get(b"expect")
    if expectations is None:
        return False
    if any(element != b"100-continue" for element in names_of(expectations)):
        raise Refused(417, "unsupported_expectation", "expect 100-continue, or nothing")
    return True
