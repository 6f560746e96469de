"""A stream as a source: the same calls as a socket gives, and two tasks that end with the link."""

import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.transport.fakes import Recorder, Thing, link_setup, url
from trio_gateway.settings import Timeouts
from trio_gateway.testing import MemoryListener, MemoryStream
from trio_gateway.transport.link import LinkSetup
from trio_gateway.transport.streams import StreamLink
from trio_gateway.transport.timers import Timers

TIMEOUTS = Timeouts(closing_timeout=8, linger_timeout=2, send_timeout=20)


@attrs.define
class Served:
    """A link that runs, and what its peer holds."""

    link: StreamLink
    receiver: Recorder
    scope: trio.CancelScope
    ended: trio.Event


class World:
    """Serves streams in tasks."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.timers = Timers()
        self.setup = link_setup(timers=self.timers, timeouts=TIMEOUTS, max_read=4)
        self._nursery = nursery
        nursery.start_soon(self.timers.run)

    async def serve(
        self,
        stream: trio.abc.Stream,
        reaction: Callable[[str], object] | None = None,
        setup: LinkSetup | None = None,
    ) -> Served:
        """Begin to serve a stream and let it come to rest."""
        link = StreamLink(stream, setup or self.setup)
        link.receiver = receiver = Recorder(reaction)
        served = Served(link, receiver, trio.CancelScope(), trio.Event())

        async def run() -> None:
            with served.scope:
                try:
                    await link.run()
                finally:
                    served.ended.set()

        self._nursery.start_soon(run)
        await wait_all_tasks_blocked()
        return served


@pytest.fixture
async def world(nursery: trio.Nursery) -> World:
    return World(nursery)


async def streams(max_buffered_bytes: int | None = None) -> tuple[MemoryStream, MemoryStream]:
    """Return the two ends of a memory connection: ours and the peer's."""
    listener = MemoryListener(max_buffered_bytes=max_buffered_bytes)
    theirs = await listener.connect()
    return await listener.accept(), theirs


async def test_what_comes_is_fed(world: World) -> None:
    """In pieces of at most so many bytes, and then the end of the input, once."""
    ours, theirs = await streams()
    served = await world.serve(ours)
    await theirs.send_all(b"abcdef")
    await theirs.send_eof()
    await wait_all_tasks_blocked()
    assert [b"abcd", b"ef", "eof"] == served.receiver.events
    assert not served.ended.is_set()


async def test_what_is_sent_after_the_end_of_the_input(world: World) -> None:
    """The peer's half is over, ours is not."""
    ours, theirs = await streams()
    served = await world.serve(ours)
    await theirs.send_eof()
    await wait_all_tasks_blocked()
    served.link.outbox.write(b"hello")
    assert b"hello" == await theirs.receive_some()
    served.link.abort()
    await served.ended.wait()


async def test_what_is_sent_goes_out_in_order(world: World) -> None:
    """Frames that are offered before, while and after the writer sends."""
    ours, theirs = await streams(max_buffered_bytes=3)
    served = await world.serve(ours)
    for frame in (b"first ", b"second ", b"third"):
        served.link.outbox.write(frame)
        await wait_all_tasks_blocked()
    received = b""
    while not received.endswith(b"third"):
        received += await theirs.receive_some()
    assert b"first second third" == received
    await wait_all_tasks_blocked()
    assert 0 == served.link.outbox.size


async def test_pausing(world: World) -> None:
    """Nothing is read between a pause and its resumption, and nothing is lost."""
    ours, theirs = await streams()
    served = await world.serve(ours, lambda _: served.link.pause())
    await theirs.send_all(b"abcdefghijkl")
    await wait_all_tasks_blocked()
    assert [b"abcd"] == served.receiver.events
    served.link.resume()
    served.link.resume()
    await wait_all_tasks_blocked()
    assert [b"abcd", b"efgh"] == served.receiver.events
    served.link.pause()
    served.link.resume()
    await wait_all_tasks_blocked()
    assert [b"abcd", b"efgh", b"ijkl"] == served.receiver.events


@pytest.mark.parametrize("paused", [False, True])
async def test_aborting_ends_both_tasks(world: World, paused: bool) -> None:
    """Whether it reads or is paused, the stream is closed and the tasks are gone."""
    ours, theirs = await streams()
    served = await world.serve(ours)
    thing = Thing()
    served.link.hold(thing)
    if paused:
        served.link.pause()
    served.link.abort()
    await served.ended.wait()
    assert (["lost"], 1) == (served.receiver.events, thing.closes)
    assert b"" == await theirs.receive_some()


async def test_cancelling_ends_the_link(world: World) -> None:
    """A link whose task is cancelled is aborted, and its stream closed all the same."""
    ours, theirs = await streams()
    served = await world.serve(ours)
    thing = Thing()
    served.link.hold(thing)
    served.scope.cancel()
    await served.ended.wait()
    events = ["leave", "lost"]
    assert (events, 1, True) == (served.receiver.events, thing.closes, served.link.ended)
    assert b"" == await theirs.receive_some()


async def test_last_words(world: World, autojump_clock: MockClock) -> None:
    """Cancelled, the phase's last words still go out to a peer that takes them."""
    ours, theirs = await streams(max_buffered_bytes=10)
    served = await world.serve(
        ours, lambda event: served.link.outbox.write(b"goodbye") if event == "leave" else None
    )
    served.link.outbox.write(b"x")
    await wait_all_tasks_blocked()
    served.scope.cancel()
    await served.ended.wait()
    assert (b"xgoodbye", b"") == (await theirs.receive_some(), await theirs.receive_some())


@pytest.mark.parametrize("waiting", [0, 3])
async def test_last_words_nobody_takes(
    world: World, autojump_clock: MockClock, waiting: int
) -> None:
    """They are given up at the linger timeout, and not begun behind a frame that was cut."""
    ours, theirs = await streams(max_buffered_bytes=3)
    served = await world.serve(
        ours, lambda event: served.link.outbox.write(b"goodbye") if event == "leave" else None
    )
    served.link.outbox.write(b"frame"[: waiting + 2])
    await wait_all_tasks_blocked()
    began = trio.current_time()
    served.scope.cancel()
    await served.ended.wait()
    if waiting:
        assert (began, ["lost"]) == (trio.current_time(), served.receiver.events)
        assert b"fra" == await theirs.receive_some()
    else:
        assert 2 <= trio.current_time() - began < 2.1
        assert b"frg" == await theirs.receive_some()


async def test_last_words_that_fail(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A phase that fails at its farewell is logged; the link ends and the stream is closed."""

    def leave(event: str) -> None:
        if event == "leave":
            raise RuntimeError("no")

    ours, theirs = await streams()
    served = await world.serve(ours, leave)
    thing = Thing()
    served.link.hold(thing)
    served.scope.cancel()
    await served.ended.wait()
    assert (["leave", "lost"], 1) == (served.receiver.events, thing.closes)
    assert b"" == await theirs.receive_some()
    assert 1 == len(caplog.records)


async def test_a_reset(world: World) -> None:
    """A stream that breaks while it is read ends the link."""
    ours, theirs = await streams()
    served = await world.serve(ours)
    theirs.send_stream.reset()
    await served.ended.wait()
    assert ["lost"] == served.receiver.events


async def test_a_reset_after_the_end_of_the_input(world: World) -> None:
    """With nobody reading any more, the next write notices."""
    ours, theirs = await streams()
    served = await world.serve(ours)
    await theirs.send_eof()
    await wait_all_tasks_blocked()
    theirs.send_stream.reset()
    served.link.outbox.write(b"hello")
    await served.ended.wait()
    assert ["eof", "lost"] == served.receiver.events


async def test_lingering(world: World, autojump_clock: MockClock) -> None:
    """The last bytes, our end of file, and then the peer's ends it."""
    ours, theirs = await streams()
    served = await world.serve(ours)
    served.link.outbox.write(b"bye")
    served.link.finish()
    assert (b"bye", b"") == (await theirs.receive_some(), await theirs.receive_some())
    await theirs.send_all(b"whatever")
    await trio.sleep(1)
    assert not served.ended.is_set()
    await theirs.send_eof()
    await served.ended.wait()
    assert [] == served.receiver.events


async def test_lingering_for_somebody_who_stays(world: World, autojump_clock: MockClock) -> None:
    """The linger timeout ends it, and both tasks."""
    ours, _theirs = await streams()
    served = await world.serve(ours)
    served.link.finish()
    began = trio.current_time()
    await served.ended.wait()
    assert 2 <= trio.current_time() - began <= 2.2


async def test_finishing_for_somebody_who_does_not_read(
    world: World, autojump_clock: MockClock
) -> None:
    """A writer that is stuck is cancelled at the closing timeout."""
    ours, _theirs = await streams(max_buffered_bytes=1)
    served = await world.serve(ours)
    served.link.outbox.write(b"bye")
    served.link.finish()
    began = trio.current_time()
    await served.ended.wait()
    assert 8 <= trio.current_time() - began <= 8.2


async def test_an_expired_deadline(world: World, autojump_clock: MockClock) -> None:
    """The phase is told, as with a socket."""
    ours, _theirs = await streams()
    served = await world.serve(ours)
    served.link.deadline(1)
    await trio.sleep(2)
    assert ["expired"] == served.receiver.events


class OneWay(trio.abc.Stream):
    """A stream that knows no half-close; broken in a way no stream should be, when told to."""

    def __init__(self, inner: MemoryStream) -> None:
        self._inner = inner
        self.failing = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.failing:
            raise RuntimeError("no")
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._inner.receive_some(max_bytes)
        if self.failing:
            raise RuntimeError("no")
        return data

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_finishing_without_a_half_close(world: World) -> None:
    """Where no end of file can be sent, the stream is closed with its last byte."""
    ours, theirs = await streams()
    served = await world.serve(OneWay(ours))
    served.link.outbox.write(b"bye")
    served.link.finish()
    await served.ended.wait()
    assert b"bye" == await theirs.receive_some()


async def test_a_stream_that_fails(nursery: trio.Nursery) -> None:
    """Another exception than a stream should raise leaves ``run()``, and the link is aborted."""
    ours, theirs = await streams()
    stream = OneWay(ours)
    stream.failing = True
    link = StreamLink(stream, link_setup())
    link.receiver = receiver = Recorder()
    await theirs.send_all(b"x")
    link.outbox.write(b"never sent")
    with pytest.raises(Exception):  # noqa: B017 - whatever it is
        await link.run()
    assert (True, "lost") == (link.ended, receiver.events[-1])
    assert b"" == await theirs.receive_some()


async def test_who_is_there() -> None:
    """A memory stream has a name, and all of them count as one address."""
    ours, _theirs = await streams()
    link = StreamLink(ours, link_setup())
    assert "unix" == link.address
    assert "StapledStream" in url(link.remote)
    assert url(link.local) == url(link.remote)
    link.abort()


# TLS.


@attrs.frozen
class Certificates:
    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("gateway.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Certificates(server, client)


def server_side(stream: trio.abc.Stream, certificates: Certificates) -> "trio.SSLStream[Any]":
    return trio.SSLStream(stream, certificates.server, server_side=True, https_compatible=True)


async def client_side(stream: trio.abc.Stream, certificates: Certificates) -> "trio.SSLStream[Any]":
    """Return a strict client: the end of the input without a close_notify is an error to it."""
    client = trio.SSLStream(stream, certificates.client, server_hostname="gateway.test")
    await client.do_handshake()
    return client


async def test_tls(world: World, certificates: Certificates) -> None:
    """Bytes in and out through TLS, over something that is no socket."""
    ours, theirs = await streams()
    served = await world.serve(server_side(ours, certificates))
    client = await client_side(theirs, certificates)
    await client.send_all(b"abc")
    await wait_all_tasks_blocked()
    served.link.outbox.write(b"hello")
    assert b"hello" == await client.receive_some()
    assert ([b"abc"], True) == (served.receiver.events, served.link.is_ssl)
    served.link.abort()


@pytest.mark.parametrize("linger", [False, True])
async def test_tls_ends_in_order(world: World, certificates: Certificates, linger: bool) -> None:
    """A strict client gets the last bytes and a close_notify, and ends it with its own."""
    ours, theirs = await streams()
    served = await world.serve(server_side(ours, certificates))
    client = await client_side(theirs, certificates)
    served.link.outbox.write(b"bye")
    served.link.finish(linger=linger)
    assert (b"bye", b"") == (await client.receive_some(), await client.receive_some())
    assert not served.ended.is_set()
    await client.aclose()
    await served.ended.wait()
    assert [] == served.receiver.events


async def test_tls_ends_while_the_peer_talks(world: World, certificates: Certificates) -> None:
    """What a client says meanwhile is read and forgotten, and costs it no last byte."""
    ours, theirs = await streams()
    served = await world.serve(server_side(ours, certificates))
    client = await client_side(theirs, certificates)
    await client.send_all(b"unwanted" * 10)
    served.link.outbox.write(b"bye")
    served.link.finish()
    await client.send_all(b"unwanted" * 10)
    assert b"bye" == await client.receive_some()
    await theirs.aclose()
    await served.ended.wait()


async def test_tls_lingers_for_somebody_who_stays(
    world: World, certificates: Certificates, autojump_clock: MockClock
) -> None:
    """A client that never says close_notify is left at the linger timeout."""
    ours, theirs = await streams()
    served = await world.serve(server_side(ours, certificates))
    await client_side(theirs, certificates)
    began = trio.current_time()
    served.link.finish()
    await served.ended.wait()
    assert 2 <= trio.current_time() - began <= 2.2


async def test_no_tls(world: World) -> None:
    """A handshake with garbage ends the link; nothing is fed."""
    certificates = Certificates(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), None)  # type: ignore[arg-type]  # no client
    ours, theirs = await streams()
    served = await world.serve(server_side(ours, certificates))
    await theirs.send_all(b"GET / HTTP/1.1\r\n\r\n")
    await served.ended.wait()
    assert ["lost"] == served.receiver.events


async def test_tls_that_takes_too_long(
    world: World, certificates: Certificates, autojump_clock: MockClock
) -> None:
    """A deadline during the TLS handshake ends the link: nobody could read an answer."""
    ours, _theirs = await streams()
    served = await world.serve(server_side(ours, certificates))
    served.link.deadline(1)
    await served.ended.wait()
    assert ["lost"] == served.receiver.events


async def socket_streams() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return the two ends of a TCP connection: ours and the peer's."""
    listening = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listening.getsockname())
    ours, _ = listening.accept()
    listening.close()
    return (
        trio.SocketStream(trio.socket.from_stdlib_socket(ours)),
        trio.SocketStream(trio.socket.from_stdlib_socket(theirs)),
    )


async def test_plain_http_on_a_tls_port(world: World, certificates: Certificates) -> None:
    """It is answered in plain text at once, and the peer may finish what it was saying."""
    ours, theirs = await socket_streams()
    served = await world.serve(server_side(ours, certificates))
    await theirs.send_all(b"GET / HTTP/1.1\r\n\r\n")
    assert b"not TLS" == await theirs.receive_some()
    assert b"" == await theirs.receive_some()
    await theirs.send_all(b"more")
    await theirs.aclose()
    await served.ended.wait()
    assert ["lost"] == served.receiver.events


async def test_plain_http_on_a_tls_port_with_a_reset(
    world: World, certificates: Certificates
) -> None:
    """A peer that breaks off while it is told is forgotten."""
    ours, theirs = await socket_streams()
    served = await world.serve(server_side(ours, certificates))
    await theirs.send_all(b"GET / HTTP/1.1\r\n\r\n")
    await theirs.receive_some()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await theirs.aclose()
    await served.ended.wait()


@pytest.mark.parametrize("rudely", [False, True])
async def test_nothing_at_all_on_a_tls_port(
    world: World, certificates: Certificates, rudely: bool
) -> None:
    """A peer that connects and leaves is forgotten."""
    ours, theirs = await socket_streams()
    served = await world.serve(server_side(ours, certificates))
    assert url(served.link.remote).startswith("wss://127.0.0.1:")
    assert "127.0.0.1" == served.link.address
    if rudely:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await theirs.aclose()
    await served.ended.wait()
    assert ["lost"] == served.receiver.events


async def test_tls_over_a_socket(world: World, certificates: Certificates) -> None:
    """The look at the first byte takes nothing away, and half-closes work underneath."""
    ours, theirs = await socket_streams()
    served = await world.serve(server_side(ours, certificates))
    client = await client_side(theirs, certificates)
    await client.send_all(b"abc")
    with trio.fail_after(5):
        while not served.receiver.events:
            await trio.lowlevel.checkpoint()
    served.link.finish()
    assert b"" == await client.receive_some()
    await client.aclose()
    await served.ended.wait()
    assert [b"abc"] == served.receiver.events
