"""Listeners: served once, accepted from until the gateway goes, silent about overload."""

import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.transport.fakes import url
from trio_gateway.errors import ListenerInUse
from trio_gateway.testing import MemoryListener
from trio_gateway.transport.listeners import (
    AnyListener,
    TlsListener,
    accept_streams,
    duplicate,
    endpoint_of,
    socket_of,
    sole_use,
)

HERE = "app.py:1"


@pytest.fixture
async def tcp() -> AsyncIterator[trio.SocketListener]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    yield listener
    await listener.aclose()


async def test_the_socket_under_a_listener(tcp: trio.SocketListener) -> None:
    """TLS lies over the same socket; a memory listener has none."""
    tls = trio.SSLListener(tcp, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    assert tcp.socket is socket_of(tcp)
    assert tcp.socket is socket_of(tls)
    port = tcp.socket.getsockname()[1]
    assert f"ws://127.0.0.1:{port}" == url(endpoint_of(tcp))
    assert f"wss://127.0.0.1:{port}" == url(endpoint_of(tls))


async def test_listeners_without_a_port(tmp_path: Path) -> None:
    """A Unix socket is named by its path, anything else by its ``repr()``."""
    memory = MemoryListener()
    assert socket_of(memory) is None
    assert repr(memory) == endpoint_of(memory)
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(str(tmp_path / "gateway"))
    sock.listen()
    unix = trio.SocketListener(sock)
    assert f"unix:{tmp_path}/gateway" == endpoint_of(unix)
    await unix.aclose()


async def test_a_duplicate(tcp: trio.SocketListener) -> None:
    """The copy accepts for the same port without blocking, and is closed by itself."""
    copy = duplicate(tcp.socket)
    assert (False, tcp.socket.getsockname()) == (copy.getblocking(), copy.getsockname())
    with pytest.raises(BlockingIOError):
        copy.accept()
    copy.close()
    assert tcp.socket.fileno() >= 0


@pytest.mark.parametrize("kind", ["the same", "TLS over it", "a copy of its socket"])
async def test_a_listener_is_served_once(tcp: trio.SocketListener, kind: str) -> None:
    """The second gateway is told where the first was started; afterwards it may serve."""
    second: AnyListener
    match kind:
        case "the same":
            second = tcp
        case "TLS over it":
            second = trio.SSLListener(tcp, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        case _:
            second = trio.SocketListener(trio.socket.from_stdlib_socket(duplicate(tcp.socket)))
    with sole_use([tcp], HERE):
        with (
            pytest.raises(
                ListenerInUse, match=r"served by the gateway started at app.py:1"
            ) as in_use,
            sole_use([second], "other.py:2"),
        ):
            pass
        assert (str(endpoint_of(second)), HERE) == (in_use.value.listener, in_use.value.first)
    with sole_use([second], "other.py:2"):
        pass
    await second.aclose()


async def test_a_claim_is_all_or_nothing(tcp: trio.SocketListener) -> None:
    """When one of several is in use the others are free again."""
    first, second = MemoryListener(), MemoryListener()
    with sole_use([second], HERE):
        with pytest.raises(ListenerInUse), sole_use([tcp, first, second], "other.py:2"):
            pass
        with sole_use([tcp, first], "third.py:3"):
            pass


async def test_one_listener_twice(tcp: trio.SocketListener) -> None:
    """A gateway cannot serve one listener twice either."""
    with pytest.raises(ListenerInUse), sole_use([tcp, tcp], HERE):
        pass
    with sole_use([tcp], HERE):
        pass


class Scripted(trio.abc.Listener[trio.abc.Stream]):
    """A listener whose accepts fail as a test says."""

    def __init__(self, *outcomes: int | trio.abc.Stream) -> None:
        self._outcomes = list(outcomes)
        self.accepts = 0

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.accepts += 1
        if not self._outcomes:
            await trio.sleep_forever()
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, int):
            raise OSError(outcome, os.strerror(outcome))
        return outcome

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_accepting_streams(nursery: trio.Nursery) -> None:
    """Each stream is served in a task, whatever becomes of the accept loop."""
    listener, served = MemoryListener(), list[trio.abc.Stream]()
    loop = trio.CancelScope()
    over = trio.Event()

    async def serve(stream: trio.abc.Stream) -> None:
        served.append(stream)
        await over.wait()
        served.remove(stream)

    async def accept() -> None:
        with loop:
            await accept_streams(listener, serve, nursery)

    nursery.start_soon(accept)
    for _ in range(3):
        await listener.connect()
    await wait_all_tasks_blocked()
    assert 3 == len(served)
    loop.cancel()
    await wait_all_tasks_blocked()
    assert 3 == len(served)
    over.set()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_overload(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    """Ten tries a second, one line a second and no traceback; then it goes on."""
    listener = Scripted(*[number] * 25)
    nursery.start_soon(accept_streams, listener, trio.abc.AsyncResource.aclose, nursery)
    await trio.sleep(1.95)
    assert 20 == listener.accepts
    await trio.sleep(10)
    assert 26 == listener.accepts
    text = f"cannot accept connections: {os.strerror(number)}; trying again"
    assert [text] * 3 == [record.message for record in caplog.records]
    assert not any(record.exc_info for record in caplog.records)


async def test_giving_way(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Before each stream that is better off elsewhere, others have a moment to take it."""
    listener, crowded = Scripted(), True
    nursery.start_soon(
        accept_streams, listener, trio.abc.AsyncResource.aclose, nursery, lambda: crowded
    )
    await trio.sleep(0.01)
    assert 0 == listener.accepts
    await trio.sleep(1)
    assert 1 == listener.accepts


async def test_a_listener_that_is_broken(nursery: trio.Nursery) -> None:
    """An error that is no overload is the gateway's to know."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        await accept_streams(Scripted(errno.EBADF), trio.abc.AsyncResource.aclose, nursery)


async def test_tls_that_changes(tcp: trio.SocketListener) -> None:
    """Each connection begins with the context of its moment; it is a listener over TLS."""
    contexts = [ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2)]
    asked = iter(contexts)
    listener = TlsListener(tcp, lambda: next(asked))
    assert tcp.socket is socket_of(listener)
    assert url(endpoint_of(listener)).startswith("wss://127.0.0.1:")
    streams: list[trio.abc.Stream] = []
    for context in contexts:
        client = await trio.open_tcp_stream("127.0.0.1", tcp.socket.getsockname()[1])
        accepted = await listener.accept()
        assert context is accepted.context
        streams += [client, accepted]
    for stream in streams:
        await trio.aclose_forcefully(stream)
