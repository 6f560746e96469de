"""An ASGI response becomes bytes of HTTP/1.1.

In: the messages ``http.response.start`` and ``http.response.body``. Out: bytes, or an exception for
the application and not a byte. The rules: nothing is written before the first body message, so that
an application that fails before it can still be answered for; what frames a message
(``Content-Length``, ``Transfer-Encoding``, ``Connection``) is ours; a body is as long as announced.
"""

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any

from trio_gateway.handshake.fields import TCHAR
from trio_gateway.handshake.refusal import reason_phrase

_LINES = re.compile(rb"(?:" + TCHAR + rb"++: [\t\x20-\x7e\x80-\xff]*+\r\n)*+")  # RFC 9110 §5.5
_LENGTH = re.compile(rb"[0-9]{1,18}")
_OURS = frozenset({b"transfer-encoding", b"keep-alive", b"proxy-connection"})
_WITHOUT_CONTENT = frozenset({204, 304})


class ClientGone(OSError):
    """The client has left: what the application sends has nowhere to go (ASGI's HTTP spec 2.4)."""

    def __str__(self) -> str:
        return "the client is gone; nothing more can be sent"


class Response:
    """One response, message by message.

    Arguments:
        head_only: the request was a HEAD.
        chunks: the client understands chunks (HTTP/1.1).

    Attributes:
        begun: its head is written; nothing else can be answered any more.
        complete: all of it is written.
        keep_alive: another request may follow on the socket; ``body()`` decides.
    """

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_chunks",
        "_head_only",
        "_left",
        "_start",
        "begun",
        "complete",
        "keep_alive",
    )

    def __init__(self, *, head_only: bool, chunks: bool) -> None:
        self._head_only = head_only
        self._chunks = chunks
        self._start: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._chunked = False
        self._bodiless = head_only
        self._left: int | None = None
        self.begun = False
        self.complete = False
        self.keep_alive = False

    @property
    def delimited(self) -> bool:
        """Whether its end shows in it, and not by the end of the connection alone."""
        return self._chunked or self._left is not None

    def start(self, status: Any, headers: Iterable[Iterable[bytes]]) -> None:
        """Take the status and the headers.

        Raises:
            RuntimeError: it has been started.
            TypeError: the status is no number, or a name or value not bytes.
            ValueError: the status is not from 200 to 599, or a header cannot be sent.
        """
        if self._start is not None:
            raise RuntimeError("the response has been started; a request has one answer")
        if not isinstance(status, int):
            raise TypeError(f"a response's status is a number, not {status!r}")
        if not 200 <= status <= 599:
            raise ValueError(f"a response's status is from 200 to 599, not {status}")
        fields = [(bytes(name), bytes(value).strip(b" \t")) for name, value in headers]
        lines = _lines(fields)
        if lines.count(b"\n") != len(fields) or not _LINES.fullmatch(lines):
            raise ValueError(f"these headers may not be sent: {fields!r}")
        for name, value in fields:
            if name.lower() == b"content-length":
                if self._left is not None or not _LENGTH.fullmatch(value):
                    raise ValueError(f"a response has one Content-Length, a number: {fields!r}")
                self._left = int(value)
        self._start = status, fields

    def body(self, data: bytes, *, more: bool, keep_alive: bool) -> bytes:
        """Return the bytes of a part of the body, with the head before the first.

        Arguments:
            data: the part.
            more: another will come.
            keep_alive: what the socket could do; looked at with the first part only.

        Raises:
            RuntimeError: it is not started, or complete, or not as long as announced; not a byte
                of this part may be sent.
        """
        if self._start is None:
            raise RuntimeError("a response begins with http.response.start")
        if self.complete:
            raise RuntimeError("the response is complete; a request has one answer")
        head = b"" if self.begun else self._head(len(data), more, keep_alive)
        if self._bodiless:
            data = b""
        elif self._left is not None:
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the response's body is not as long as its Content-Length says")
        self.begun = True
        self.complete = not more
        if not self._chunked or self._bodiless:
            return head + data
        end = b"" if more else b"0\r\n\r\n"
        return b"%b%x\r\n%b\r\n%b" % (head, len(data), data, end) if data else head + end

    def _head(self, size: int, more: bool, keep_alive: bool) -> bytes:
        assert self._start is not None
        status, fields = self._start
        names = set[bytes]()
        kept: list[tuple[bytes, bytes]] = []
        for name, value in fields:
            lower = name.lower()
            names.add(lower)
            if lower == b"connection":
                keep_alive = keep_alive and b"close" not in value.lower()
            elif lower == b"content-length" and status == 204:
                self._left = None  # RFC 9110 §8.6
            elif lower not in _OURS:
                kept.append((name, value))
        if status in _WITHOUT_CONTENT:
            self._bodiless = True
        elif self._left is None:
            if not more:
                if not (self._head_only and not size):  # of an unknown length, not of none
                    kept.append((b"content-length", b"%d" % size))
                    self._left = size
            elif self._chunks:
                self._chunked = True
                kept.append((b"transfer-encoding", b"chunked"))
            else:
                keep_alive = keep_alive and self._head_only
        self.keep_alive = keep_alive
        kept.append((b"connection", b"keep-alive" if keep_alive else b"close"))
        if b"date" not in names:
            kept.append((b"date", _date()))  # RFC 9110 §6.6.1
        phrase = reason_phrase(status).encode("ascii")
        return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, phrase, _lines(kept))


def _lines(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class _Clock:
    second = 0
    text = b""


def _date() -> bytes:
    second = int(time.time())
    if second != _Clock.second:
        _Clock.second, _Clock.text = second, formatdate(second, usegmt=True).encode("ascii")
    return _Clock.text
