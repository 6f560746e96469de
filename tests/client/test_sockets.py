"""The client on real sockets: processes that are killed, TLS, descriptors."""

import os
import signal
import socket
import ssl
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from tests.cli.process import Running, command, start
from trio_gateway.apps.chat import ChatApp
from trio_gateway.client import ClientSettings, Gap, Message, Room, connect_chat
from trio_gateway.gateway import Gateway
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.serving import serve_websocket

SETTINGS = ClientSettings(backoff_base=0.05, backoff_cap=0.5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def listening(running: Running) -> None:
    line = await running.out.next()
    assert line is not None, await running.err.rest()


async def take(room: Room) -> Message:
    item = await room.__anext__()
    assert isinstance(item, Message), item
    return item


async def test_a_killed_process_is_told_of_or_made_up_for(tmp_path: Path) -> None:
    """The client is back with the next process; memory's lost history is a gap."""
    port = free_port()
    arguments = command("--port", str(port), "--store", "memory")
    async with connect_chat(f"ws://127.0.0.1:{port}", user="ann", settings=SETTINGS) as room:
        async with start(arguments) as running:
            await listening(running)
            first = await room.publish("before")
            assert first == (await take(room)).position
            await running.terminate(signal.SIGKILL)
        async with start(arguments) as running:
            await listening(running)
            second = await room.publish("after")
            gap = await room.__anext__()
            assert isinstance(gap, Gap)
            assert (first, None) == (gap.after, gap.lost)
            assert second == (await take(room)).position


async def test_a_killed_process_with_a_file_loses_nothing(tmp_path: Path) -> None:
    """With sqlite, each acknowledged message comes once, in order, over three kills."""
    port = free_port()
    store = f"sqlite:{tmp_path / 'store.db'}"
    arguments = command("--port", str(port), "--store", store)
    received: list[str] = []
    async with (
        connect_chat(f"ws://127.0.0.1:{port}", user="ann", settings=SETTINGS) as room,
        trio.open_nursery() as nursery,
    ):
        published = trio.Event()

        async def publish() -> None:
            for number in range(200):
                await room.publish(str(number))
            published.set()

        for kill in range(4):
            async with start(arguments) as running:
                line = await running.out.next()
                if line is None:
                    pytest.skip("this build has no sqlite")
                if kill == 0:
                    nursery.start_soon(publish)
                while len(received) < 50 * (kill + 1):
                    received.append((await take(room)).text)
                if kill == 3:  # nobody comes after this one to acknowledge the last message
                    await published.wait()
                await running.terminate(signal.SIGKILL)
    assert [str(number) for number in range(200)] == received


async def test_tls_and_no_descriptor_is_left() -> None:
    """wss with the caller's context; after it all, as many descriptors as before."""
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    hub = Hub(MemoryBroker())
    chat = ChatApp(hub)
    before = descriptors()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, chat.handle, "127.0.0.1", 0, server_context, hub=hub)
        gateway: Gateway = await nursery.start(serve)
        port = gateway.port
        url = f"wss://localhost:{port}"
        async with connect_chat(url, user="ann", ssl_context=context) as room:
            position = await room.publish("x")
            assert position == (await take(room)).position
        with trio.move_on_after(0.3):
            async with connect_chat(url, user="ann", settings=SETTINGS) as room:
                await room.wait_live()  # never: the certificate is not trusted
        nursery.cancel_scope.cancel()
    assert before >= descriptors()
