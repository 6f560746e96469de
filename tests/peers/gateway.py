"""A gateway for foreign clients, with a path for everything that a client can do or be done to."""

import ssl
from functools import partial
from typing import Self

import attrs
import trio
import trustme
from trio_websocket import CloseReason, ConnectionClosed

from trio_gateway import Gateway, Router, Upgrade, serve_websocket

GUARD = 20.0
"""Seconds after which a conversation is stuck."""

MEGABYTE = 1024 * 1024


@attrs.frozen
class Certificates:
    """A server's TLS context, and what a client has to trust."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    authority: bytes

    @classmethod
    def issue(cls) -> Self:
        authority = trustme.CA()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        return cls(server, client, authority.cert_pem.bytes())


async def echo(upgrade: Upgrade) -> None:
    """Send everything back."""
    connection = await upgrade.accept()
    try:
        async for message in connection:
            await connection.send_message(message)
    except ConnectionClosed:
        pass


async def close(upgrade: Upgrade) -> None:
    """Close with the code of the path and the reason of the query."""
    connection = await upgrade.accept()
    await connection.aclose(upgrade.params["code"], upgrade.query.get("reason"))


async def chat(upgrade: Upgrade) -> None:
    """Speak ``chat.v2`` with whoever can, and say what was offered."""
    offered = upgrade.proposed_subprotocols
    connection = await upgrade.accept(subprotocol="chat.v2" if "chat.v2" in offered else None)
    await connection.send_message(",".join(offered))


async def reject(upgrade: Upgrade) -> None:
    """Reject with the status of the path."""
    await upgrade.reject(
        upgrade.params["status"], extra_headers=[(b"X-Why", b"because")], body=b"not you"
    )


async def ping(upgrade: Upgrade) -> None:
    """Ping the client twice; say so when both pongs are there."""
    connection = await upgrade.accept()
    await connection.ping()
    await connection.ping(b"marco")
    await connection.send_message("polo")


async def sleep(upgrade: Upgrade) -> None:
    """Accept and never read."""
    connection = await upgrade.accept()
    while connection.closed is None:  # noqa: ASYNC110  # a handler that waits for something else
        await trio.sleep(0.01)


class Site:
    """The gateway, and what its handlers were told.

    Attributes:
        told: the close reasons that the handler of ``/told`` was given.
    """

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self.told = list[CloseReason | None]()
        self.router = Router()
        self.router.route("/echo", echo)
        self.router.route("/close/{code:int}", close)
        self.router.route("/chat", chat)
        self.router.route("/reject/{status:int}", reject)
        self.router.route("/ping", ping)
        self.router.route("/sleep", sleep)
        self.router.route("/told", self._hear)

    async def _hear(self, upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        async for _ in connection:
            pass
        self.told.append(connection.closed)

    async def start(self, nursery: trio.Nursery) -> None:
        """Serve both, TCP and TLS."""
        plain: Gateway = await nursery.start(
            partial(serve_websocket, self.router, "127.0.0.1", 0, None)
        )
        tls: Gateway = await nursery.start(
            partial(serve_websocket, self.router, "127.0.0.1", 0, self.certificates.server)
        )
        self.gateways = (plain, tls)

    def url(self, path: str, *, tls: bool = False) -> str:
        """Return the URL of a path."""
        scheme = "wss" if tls else "ws"
        return f"{scheme}://127.0.0.1:{self.gateways[tls].port}{path}"

    async def heard(self, count: int = 1) -> list[tuple[int, str | None]]:
        """Wait until ``/told`` was told so often; return codes and reasons."""
        while len(self.told) < count:  # noqa: ASYNC110  # the client's end is no event of ours
            await trio.sleep(0.001)
        return [(told.code, told.reason) for told in self.told if told is not None]

    async def quiet(self) -> None:
        """Every socket and handler is gone; no handler has failed."""
        for gateway in self.gateways:
            while (now := gateway.statistics()).sockets or now.handlers:  # noqa: ASYNC110  # likewise
                await trio.sleep(0.001)
            assert not now.handler_failures
