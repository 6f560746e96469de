"""permessage-deflate on connections: agreed in the handshake, shared, bounded, never corrupted."""

import os
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import open_websocket
from websockets.sync.client import connect
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Pong,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from trio_gateway import Connection, Limits, Upgrade, Verdict, serve_websocket
from trio_gateway.connection.compression import Deflaters, SharedDeflater
from trio_gateway.connection.frames import text_frame
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.settings import Compression
from trio_gateway.testing import MemoryStream, OpenGateway, open_gateway

ON = Compression(min_bytes=1)


class Peer:
    """wsproto's client, with its extension, over a memory stream."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.extension = PerMessageDeflate()
        self.protocol = WSConnection(ConnectionType.CLIENT)
        self.closed: CloseConnection | None = None
        self.read = 0
        self._events: list[object] = []

    async def open(self) -> AcceptConnection:
        await self.stream.send_all(
            self.protocol.send(Request(host="x", target="/", extensions=[self.extension]))
        )
        accepted = await self.event()
        assert isinstance(accepted, AcceptConnection)
        return accepted

    async def event(self) -> object:
        """Return the next event, None at the end of file."""
        while not self._events:
            data = await self.stream.receive_some()
            self.read += len(data)
            self.protocol.receive_data(bytes(data) or None)
            self._events.extend(self.protocol.events())
            if not data:
                return None
        return self._events.pop(0)

    async def message(self) -> str | bytes | None:
        """Return the next message; None once there are no more, then ``closed`` may say why."""
        parts: list[str | bytes] = []
        while event := await self.event():
            if isinstance(event, TextMessage | BytesMessage):
                parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    empty = "" if isinstance(event, TextMessage) else b""
                    return empty.join(parts)  # type: ignore[arg-type]  # of one kind
            elif isinstance(event, CloseConnection):
                self.closed = event
                if self.protocol.state is ConnectionState.REMOTE_CLOSING:
                    await self.stream.send_all(self.protocol.send(event.response()))
                return None
            else:
                assert isinstance(event, Pong)
        return None

    def frames(self, *events: Event) -> bytes:
        return b"".join([self.protocol.send(event) for event in events])

    async def send(self, *events: Event) -> None:
        await self.stream.send_all(self.frames(*events))


@asynccontextmanager
async def peer_of(server: OpenGateway) -> AsyncGenerator[Peer]:
    peer = Peer(await server.connect())
    await peer.open()
    yield peer
    await peer.stream.aclose()


async def echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


async def test_both_directions(autojump_clock: MockClock) -> None:
    """Messages of every size come back as they went, and take fewer bytes."""
    async with open_gateway(echo, compression=ON) as server, peer_of(server) as peer:
        assert peer.extension.enabled()
        assert peer.extension.server_no_context_takeover
        assert peer.extension.client_no_context_takeover
        before = peer.read
        for message in ("", "hi", "é" * 50_000, "x" * 200_000):
            await peer.send(Message(data=message))
            assert message == await peer.message()
        assert peer.read - before < 2_000
        noise = os.urandom(100_000)
        await peer.send(Message(data=noise))
        assert noise == await peer.message()


async def test_off_by_default(autojump_clock: MockClock) -> None:
    """Without the setting an offer is declined silently, and RSV1 is then an error."""
    async with open_gateway(echo) as server, peer_of(server) as peer:
        assert not peer.extension.enabled()
        await peer.send(Message(data="x" * 1000))
        assert "x" * 1000 == await peer.message()
        await peer.stream.send_all(b"\xc1\x81\x00\x00\x00\x00\x00")
        assert await peer.message() is None
        assert peer.closed is not None
        assert 1002 == peer.closed.code


async def test_a_client_that_offers_nothing(autojump_clock: MockClock) -> None:
    """trio-websocket's client gets no extension and no compressed frame."""
    kinds = list[type[Connection]]()

    async def handler(upgrade: Upgrade) -> None:
        assert upgrade.agreement is None
        connection = await upgrade.accept()
        kinds.append(type(connection))
        async for message in connection:
            await connection.send_message(message)

    async with (
        open_gateway(handler, compression=ON) as server,
        server.open_websocket("/") as client,
    ):
        await client.send_message("x" * 1000)
        assert "x" * 1000 == await client.get_message()
        await client.aclose()
    assert [Connection] == kinds


async def test_websockets_talks_to_us() -> None:
    """The client of ``websockets``, which compresses by default, over a real socket."""
    messages: list[str | bytes] = [
        "",
        "hi",
        "é" * 70_000,
        b"",
        b"ab" * 300_000,
        os.urandom(100_000),
    ]

    def client(port: int) -> list[str | bytes]:
        with connect(f"ws://127.0.0.1:{port}") as websocket:
            assert websocket.response is not None
            header = websocket.response.headers["Sec-WebSocket-Extensions"]
            assert header.startswith("permessage-deflate; server_no_context_takeover")
            back = list[str | bytes]()
            for message in messages:
                websocket.send(message)
                back.append(websocket.recv())
            websocket.send(iter(("in ", "frag", "ments")))
            assert "in fragments" == websocket.recv()
            return back

    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, echo, "127.0.0.1", 0, None, compression=ON)
        gateway = await nursery.start(serve)
        with trio.fail_after(30):
            assert messages == await trio.to_thread.run_sync(client, gateway.port)
            async with open_websocket("127.0.0.1", gateway.port, "/", use_ssl=False) as plain:
                await plain.send_message("x" * 1000)
                assert "x" * 1000 == await plain.get_message()
        nursery.cancel_scope.cancel()


async def test_frames_and_pings_are_left_in_order(autojump_clock: MockClock) -> None:
    """Frames that were encoded by the caller are compressed like messages, each for itself."""

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        await connection.send_frame(text_frame(b"a" * 500) + text_frame(b"b" * 500))
        assert Verdict.ACCEPTED is connection.offer(text_frame(b"c" * 500))
        await connection.pong(b"pong")
        await connection.send_message(b"d" * 500)

    async with open_gateway(handler, compression=ON) as server, peer_of(server) as peer:
        for expected in ("a" * 500, "b" * 500, "c" * 500, b"d" * 500, None):
            assert expected == await peer.message()
        assert peer.closed is not None
        assert 1000 == peer.closed.code


async def test_a_fan_out_is_compressed_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 subscribers of one topic, and of two at once: one compression for each publication."""
    made = list[SharedDeflater]()
    original = Deflaters.shared

    def shared(self: Deflaters, agreement: object) -> SharedDeflater:
        made.append(original(self, agreement))  # type: ignore[arg-type]  # an Agreement
        return made[-1]

    monkeypatch.setattr(Deflaters, "shared", shared)
    hub = Hub(MemoryBroker())
    hub.encode_with("news", lambda publication: text_frame(publication.payload))

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        for topic in ("news:a", "news:b"):
            await hub.subscribe(topic, connection, user="x", greet=lambda joined: ())
        try:
            async for _ in connection:
                pass
        finally:
            await hub.leave_all(connection)

    async with open_gateway(handler, compression=ON, hub=hub) as server:
        peers = [Peer(await server.connect()) for _ in range(100)]
        for peer in peers:
            await peer.open()
        await wait_all_tasks_blocked()
        await hub.publish("news:a", b"first " * 50)
        for peer in peers:
            assert "first " * 50 == await peer.message()
        assert {made[0]} == set(made)
        assert 1 == made[0].compressed
        await hub.publish("news:a", b"second " * 50)
        await hub.publish("news:b", b"third " * 50)
        for peer in peers:
            assert "second " * 50 == await peer.message()
            assert "third " * 50 == await peer.message()
        assert 3 == made[0].compressed


async def test_cancelled_sends(autojump_clock: MockClock) -> None:
    """Sends to a slow client, each cancelled or not: what arrives is whole and in order."""
    size = 30_000
    completed = list[bytes]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        for number in range(60):
            message = b"%d " % number * 100 + os.urandom(size)
            with trio.move_on_after(0.001 if number % 3 else 1000):
                await connection.send_message(message)
                completed.append(message)

    async with (
        open_gateway(handler, compression=ON, max_buffered_bytes=1024) as server,
        peer_of(server) as peer,
    ):
        got = list[str | bytes]()
        while (message := await peer.message()) is not None:
            got.append(message)
            await trio.sleep(0.002)
        assert completed == got
        assert 20 <= len(got) < 60
        assert peer.closed is not None
        assert 1000 == peer.closed.code


def bombs(peer: Peer, count: int, size: int = 1_000_000) -> bytes:
    return b"".join(peer.frames(Message(data=b"%d" % n + bytes(size))) for n in range(count))


@pytest.mark.parametrize("max_read", [4096, 1 << 20])
@pytest.mark.parametrize("max_queued_bytes", [1, 2_500_000, 100_000_000])
async def test_what_a_read_inflates_to_is_bounded(
    autojump_clock: MockClock, max_queued_bytes: int, max_read: int
) -> None:
    """One read fills a slow handler's queue once more and by a message at most; none is lost."""
    queued, count, done = list[int](), 0, trio.Event()

    async def handler(upgrade: Upgrade) -> None:
        nonlocal count
        connection = await upgrade.accept()
        await trio.sleep(1)
        queued.append(connection._queued)
        async for message in connection:
            assert b"%d" % count + bytes(1_000_000) == message
            count += 1
            await trio.sleep(1)
            queued.append(connection._queued)
        done.set()

    async with (
        open_gateway(
            handler,
            compression=ON,
            limits=Limits(max_queued_bytes=max_queued_bytes),
            receive_buffer_size=max_read,
        ) as server,
        peer_of(server) as peer,
    ):
        await peer.stream.send_all(bombs(peer, 20) + peer.frames(CloseConnection(1000)))
        assert await peer.message() is None
        assert peer.closed is not None
        assert 1000 == peer.closed.code
        await done.wait()
    assert 20 == count
    assert max(queued) <= 2 * max_queued_bytes + 1_000_100


async def test_a_queue_that_counts_characters(autojump_clock: MockClock) -> None:
    """What is held back is read on at once where the handler's queue has room."""
    text = "é" * 60_000
    async with (
        open_gateway(echo, compression=ON, limits=Limits(max_queued_bytes=100_000)) as server,
        peer_of(server) as peer,
    ):
        await peer.send(*(Message(data=text) for _ in range(9)))
        assert [text] * 9 == [await peer.message() for _ in range(9)]


async def test_a_close_behind_what_is_held_back(autojump_clock: MockClock) -> None:
    """A handler that closes unread messages behind it still hears the client's Close at once."""
    took = list[float]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        await trio.sleep(1)
        before = trio.current_time()
        await connection.aclose(1001)
        took.append(trio.current_time() - before)

    async with (
        open_gateway(handler, compression=ON, receive_buffer_size=1 << 20) as server,
        peer_of(server) as peer,
    ):
        await peer.stream.send_all(bombs(peer, 20) + peer.frames(CloseConnection(1000)))
        while await peer.event() is not None:
            pass
        assert [0.0] == took


async def test_an_end_of_file_behind_what_is_held_back(autojump_clock: MockClock) -> None:
    """What came before the end of file is all read; then the connection is closed with 1006."""
    outcome = list[int]()

    async def handler(upgrade: Upgrade) -> None:
        await trio.sleep(1)
        connection = await upgrade.accept()
        await trio.sleep(1)
        async for message in connection:
            outcome.append(len(message))
        assert connection.closed is not None
        outcome.append(connection.closed.code)

    async with open_gateway(
        handler, compression=ON, limits=Limits(max_early_bytes=1 << 20)
    ) as server:
        peer = Peer(await server.connect())
        request = peer.protocol.send(
            Request(host="x", target="/", extensions=[PerMessageDeflate()])
        )
        compressor = zlib.compressobj(wbits=-15)
        payload = (compressor.compress(bytes(500_000)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        frame = b"\xc2\xfe" + len(payload).to_bytes(2) + bytes(4) + payload
        await peer.stream.send_all(request + frame * 5)
        await peer.stream.send_eof()
        while await peer.stream.receive_some():
            pass
    assert [500_000] * 5 + [1006] == outcome


async def test_a_bomb_closes_the_connection(autojump_clock: MockClock) -> None:
    """A message that inflates to more than the limit ends in a Close with 1009."""
    async with open_gateway(echo, compression=ON) as server, peer_of(server) as peer:
        await peer.send(Message(data=bytes(50_000_000)))
        assert await peer.message() is None
        assert peer.closed is not None
        assert 1009 == peer.closed.code
