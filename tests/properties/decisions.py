"""Decisions of an upgrade as values: what is asked for, whether it may be, what is answered then.

In: Hypothesis. Out: ``Accept`` and ``Reject``, good ones and bad ones. The rule: what is good is
listed here, and not asked of the gateway.
"""

from typing import Any

import attrs
from hypothesis import strategies as st

from tests.properties.oracle import Response, accept_token
from trio_gateway import Connection, Refusal, Upgrade

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
SUBPROTOCOLS = b"chat, superchat"


@attrs.frozen
class Accept:
    """A call of ``accept()``."""

    subprotocol: Any = None
    headers: Any = None

    @property
    def valid(self) -> bool:
        return self.subprotocol in {None, "chat", "superchat"} and self.headers in _GOOD_HEADERS

    async def call(self, upgrade: Upgrade) -> Connection | None:
        return await upgrade.accept(subprotocol=self.subprotocol, extra_headers=self.headers)

    def check(self, response: Response) -> None:
        assert response.status == 101
        assert response.header(b"sec-websocket-accept") == accept_token(KEY)
        expected = None if self.subprotocol is None else self.subprotocol.encode()
        assert response.header(b"sec-websocket-protocol") == expected
        _check_headers(response, self.headers)


@attrs.frozen
class Reject:
    """A call of ``reject()``."""

    status: Any = 403
    headers: Any = None
    body: Any = None

    @property
    def valid(self) -> bool:
        return (
            type(self.status) is int
            and self.status in _GOOD_STATUS
            and self.headers in _GOOD_HEADERS
            and (self.body is None or isinstance(self.body, bytes))
        )

    async def call(self, upgrade: Upgrade) -> Connection | None:
        await upgrade.reject(self.status, extra_headers=self.headers, body=self.body)
        return None

    def check(self, response: Response) -> None:
        assert response.status == self.status
        if self.status in {204, 205, 304} or (self.body is None and self.headers == _TYPED):
            assert response.body == b""
        elif self.body is None:
            assert response.body.startswith(b'{"error":')
        else:
            assert response.body == self.body
        _check_headers(response, self.headers)


@attrs.frozen
class Refuse:
    """What the gateway itself answers."""

    refusal: Refusal

    def check(self, response: Response) -> None:
        assert (response.status, response.body) == (
            self.refusal.status,
            self.refusal.render().partition(b"\r\n\r\n")[2],
        )


@attrs.frozen
class Status:
    """An answer of which the status is all that is known."""

    status: int

    def check(self, response: Response) -> None:
        assert response.status == self.status


Decision = Accept | Reject
Answer = Decision | Refuse | Status


def _check_headers(response: Response, headers: list[tuple[bytes, bytes]] | None) -> None:
    for name, value in headers or []:
        assert (name.lower(), value.strip(b" \t")) in response.headers


_TYPED = [(b"Content-Type", b"text/html")]
_GOOD_HEADERS: list[Any] = [
    None,
    [],
    [(b"x-a", b"1")],
    [(b"X-A", b"1"), (b"x-a", b"2"), (b"Set-Cookie", b"a=b; Path=/")],
    [(b"x-latin", b"caf\xe9"), (b"x-empty", b"")],
    _TYPED,
]
_BAD_HEADERS: list[Any] = [
    [(b"x-a", b"1\r\nHTTP/1.1 200 OK")],
    [(b"x-a\r\n\r\n", b"1")],
    [(b"x a", b"1")],
    [(b"", b"1")],
    [(b"x-a", b"\0")],
    [(b"x-a", b"1\n")],
    [("x-a", "1")],
    [(b"x-a", b"1"), (b"Connection", b"keep-alive")],
    [(b"content-length", b"7")],
    [(b"Transfer-Encoding", b"chunked")],
]
_GOOD_STATUS = (200, 204, 205, 302, 304, 400, 401, 403, 404, 418, 429, 451, 500, 503, 599)
_BAD_STATUS: list[Any] = [100, 101, 199, 600, 999, 0, -1, True, "403", 403.0, None]
_BODIES = [None, b"", b"no\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"x" * 5000]

_headers = st.sampled_from(_GOOD_HEADERS)
good_accepts = st.builds(Accept, st.sampled_from([None, "chat", "superchat"]), _headers)
good_rejects = st.builds(Reject, st.sampled_from(_GOOD_STATUS), _headers, st.sampled_from(_BODIES))
bad_decisions: st.SearchStrategy[Decision] = st.sampled_from(
    [
        *(Accept(name) for name in ("other", "Chat", "", "ch\r\nat", "é", 7, b"chat")),
        *(Accept("chat", headers) for headers in _BAD_HEADERS),
        *(Reject(status) for status in _BAD_STATUS),
        *(Reject(403, headers, b"no\n") for headers in _BAD_HEADERS),
        Reject(403, None, "text"),
    ]
)
decisions = st.one_of(good_accepts, good_rejects, bad_decisions)
