"""A gateway somewhere else: its URL, a way to it, plain HTTP with it.

In: a URL. Out: streams to that place, responses from it. The rule: nothing but the URL's own host
is contacted (no proxy, no redirect), and every call has a deadline of its caller's.
"""

import json
import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import h11
import trio

_SECURE = {
    "http": False,
    "ws": False,
    "http+unix": False,
    "https": True,
    "wss": True,
    "https+unix": True,
}
_MAX_BODY = 2**22

ClientStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@attrs.frozen
class Answer:
    """A whole HTTP response.

    Attributes:
        status: its status.
        headers: by lower-case name; of a repeated name the last.
        body: all of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON, or None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def describe(self) -> str:
        """Return the status and, from a gateway's refusal, the message."""
        refusal = self.json()
        if isinstance(refusal, dict) and isinstance(refusal.get("message"), str):
            return f"{self.status}: {refusal['message']}"
        return f"{self.status}"


@attrs.frozen(kw_only=True)
class Target:
    """Where a gateway is.

    Attributes:
        url: as it was given.
        secure: whether TLS is spoken.
        host: the name, without brackets; ``"localhost"`` for a Unix socket.
        port: of TCP.
        uds: the path of a Unix socket, instead of host and port.
        prefix: what stands before every path, ``""`` or ``"/below"``.
    """

    url: str
    secure: bool
    host: str
    port: int
    uds: str | None
    prefix: str

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Read ``http://HOST:PORT``, https, ws, wss, or ``http+unix://PERCENT-ENCODED-PATH``.

        Raises:
            ValueError: this is not such a URL.
        """
        wrong = ValueError(f"must be a URL like http://127.0.0.1:3000, not {url!r}")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            if not parts.scheme.endswith("+unix"):
                host.encode("idna")  # what looking it up does
        except ValueError:
            raise wrong from None
        if re.fullmatch(r"[!-~]+", url) is None or parts.scheme not in _SECURE:
            raise wrong
        if not host or "@" in parts.netloc or parts.query or parts.fragment or "%00" in url:
            raise wrong
        secure = _SECURE[parts.scheme]
        unix = parts.scheme.endswith("+unix")
        return cls(
            url=url,
            secure=secure,
            host="localhost" if unix else host,
            port=port if port is not None else 443 if secure else 80,
            uds=unquote(parts.netloc) if unix else None,
            prefix=parts.path.rstrip("/"),
        )

    @property
    def authority(self) -> str:
        """What the ``Host`` header says (RFC 9110 §7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.secure else 80
        return host if self.uds is not None or self.port == default else f"{host}:{self.port}"

    async def open_stream(self, ssl_context: ssl.SSLContext | None = None) -> ClientStream:
        """Connect; has no deadline, and cancelled there is no connection.

        Arguments:
            ssl_context: what TLS is spoken with; None for the system's certificates.

        Raises:
            OSError, trio.BrokenResourceError, ssl.SSLError: there is no connection.
        """
        if self.uds is not None:
            stream = await trio.open_unix_socket(self.uds)
        else:
            stream = await trio.open_tcp_stream(self.host, self.port)
        if not self.secure:
            return stream
        context = ssl_context
        if context is None:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
        secured = trio.SSLStream(stream, context, server_hostname=self.host, https_compatible=True)
        try:
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secured

    @asynccontextmanager
    async def stream(
        self, ssl_context: ssl.SSLContext | None = None
    ) -> AsyncGenerator[ClientStream, None]:
        """As ``open_stream()``, closed in the end."""
        stream = await self.open_stream(ssl_context)
        try:
            yield stream
        finally:
            await trio.aclose_forcefully(stream)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        token: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> Answer:
        """Make one plain HTTP request on a connection of its own. Has no deadline.

        Arguments:
            method: for example ``"GET"``.
            path: with its query, below the prefix.
            body: sent as JSON; None for no body.
            token: shown as a bearer token.
            ssl_context: as for ``open_stream()``.

        Raises:
            OSError, trio.BrokenResourceError, ssl.SSLError: there is no connection.
            h11.RemoteProtocolError: the answer is not HTTP/1.1, or too long.
        """
        content = b"" if body is None else json.dumps(body).encode()
        headers = [("Host", self.authority), ("Connection", "close")]
        if body is not None:
            headers += [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(content))),
            ]
        if token is not None:
            headers.append(("Authorization", f"Bearer {token}"))
        client = h11.Connection(h11.CLIENT)
        request = h11.Request(method=method, target=self.prefix + path, headers=headers)
        data = client.send(request) or b""
        data += (client.send(h11.Data(data=content)) or b"") if content else b""
        data += client.send(h11.EndOfMessage()) or b""
        async with self.stream(ssl_context) as stream:
            try:
                await stream.send_all(data)
            except trio.BrokenResourceError:
                pass  # it may have answered before it hung up
            return await _read_answer(client, stream)


async def _read_answer(client: h11.Connection, stream: ClientStream) -> Answer:
    head: h11.Response | None = None
    body = bytearray()
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MAX_BODY:
                raise h11.RemoteProtocolError("the answer is too long")
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            fields = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers
            }
            return Answer(head.status_code, fields, bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the server hung up without an answer")


def explain(error: BaseException) -> str:
    """Return one line about why talking to a gateway failed."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.__cause__ is not None:
        return explain(error.__cause__)  # Trio's "all attempts failed" over the attempts
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, trio.BrokenResourceError):
        return explain(error.__cause__) if error.__cause__ else "the connection was lost"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {getattr(error, 'reason', None) or error}"
    if isinstance(error, socket.gaierror):
        return "there is no address of that name"
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    if isinstance(error, h11.RemoteProtocolError):
        return f"not an HTTP answer: {error}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # its own text may be Trio's, with the address in it
    return str(error) or type(error).__name__
