"""What has ended is freed at once: nothing of it waits for the garbage collector.

A collector that has work stops every client while it looks at all there is.
"""

import gc
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.rude.peer import BINARY, PING, Peer, close, frame, handshake, text
from tests.rude.site import GUARD, until
from trio_gateway import Connection, Gateway, Upgrade
from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.transport.link import Link
from trio_gateway.transport.outbox import Outbox


async def says_goodbye(peer: Peer) -> None:
    await peer.upgrade("/?room=garbage")
    await peer.send(text("hello"), close())
    await peer.frames()


async def hangs_up(peer: Peer) -> None:
    await peer.upgrade("/")
    await peer.send(text("hello"))
    await peer.reset()


async def breaks_the_protocol(peer: Peer) -> None:
    await peer.upgrade("/")
    await peer.send(frame(PING, b"x", masked=False))
    await peer.frames()


async def sends_pieces(peer: Peer) -> None:
    await peer.upgrade("/")
    await peer.send(frame(BINARY, b"x", fin=False), frame(BINARY, b"y"))
    await peer.frames()


async def is_refused(peer: Peer) -> None:
    await peer.send(b"GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    await peer.rest()


async def asks_over_http(peer: Peer) -> None:
    await peer.send(b"GET /healthz HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n")
    await peer.rest()


async def leaves_before_the_answer(peer: Peer) -> None:
    await peer.send(handshake())
    await peer.reset()


ENDINGS = [
    says_goodbye,
    hangs_up,
    breaks_the_protocol,
    sends_pieces,
    is_refused,
    asks_over_http,
    leaves_before_the_answer,
]


def alive() -> list[object]:
    kinds = (Link, Outbox, Upgrade, Connection)
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_connection_is_freed_at_its_end(
    nursery: trio.Nursery, ending: Callable[[Peer], Awaitable[None]]
) -> None:
    """Socket, outbox, upgrade and connection are gone by their reference counts alone."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    application = Application(MemoryBroker(), ApplicationSettings())
    gateway: Gateway = await nursery.start(application.gateway([listener]).run)
    gc.disable()
    try:
        of_other_tests = alive()  # kept here, so that nothing new has an identity of theirs
        with trio.fail_after(GUARD):
            for _ in range(3):
                stream = await trio.open_tcp_stream(*listener.socket.getsockname())
                async with Peer(stream) as peer:
                    await ending(peer)
            await until(lambda: not gateway.statistics().sockets)
            await trio.testing.wait_all_tasks_blocked()
        known = {id(thing) for thing in of_other_tests}
        assert [] == [thing for thing in alive() if id(thing) not in known]
    finally:
        gc.enable()
    nursery.cancel_scope.cancel()
