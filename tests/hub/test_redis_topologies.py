"""Redis behind sentinels, in a cluster, over TLS and through a Unix socket."""

import ssl
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.cluster.server import DURABLE, Server, free_port, redis_server
from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Publication

redis = pytest.importorskip("trio_gateway.hub.redis", reason="the extra redis is not installed")

_PATIENCE = 30.0
_SLOTS = 16_384


def wait_for(server: Server, words: list[str], wanted: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while wanted not in (answer := server.ask(*words)):
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


async def until(condition: Any) -> None:
    with trio.fail_after(_PATIENCE):
        while not condition():  # noqa: ASYNC110 - of another process
            await trio.sleep(0.01)


async def insist(broker: Any, topic: str, text: str) -> Any:
    with trio.fail_after(_PATIENCE):
        while True:
            try:
                return await broker.publish(topic, text.encode(), key=text)
            except StoreUnavailable:
                await trio.sleep(0.05)


async def test_a_failover_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Sentinels say who the primary is now; what the replica had goes on under the same epoch."""
    with ExitStack() as stack:
        primary = stack.enter_context(redis_server(*DURABLE))
        replica = stack.enter_context(redis_server("--replicaof", "127.0.0.1", str(primary.port)))
        wait_for(replica, ["INFO", "replication"], "master_link_status:up")
        sentinel = stack.enter_context(sentinels(tmp_path, primary))
        wait_for(sentinel, ["INFO", "sentinel"], "slaves=1")
        found: list[Publication] = []
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main?deadline=2"
        async with redis.open_redis(url) as broker, trio.open_nursery() as nursery:
            await nursery.start(broker.run, found.append)
            await broker.subscribe("chat:a")
            before = [await broker.publish("chat:a", text) for text in (b"a", b"b")][-1]
            wait_for(replica, ["KEYS", "*log:chat:a"], "log:chat:a")
            wait_for(replica, ["XLEN", broker._names.keys("chat:a", "log")[0]], ":2")
            primary.kill()
            after = await insist(broker, "chat:a", "c")
            assert (before.epoch, 3) == (after.epoch, after.offset)
            await until(lambda: len(found) == 3)
            nursery.cancel_scope.cancel()
    assert [b"a", b"b", b"c"] == [publication.payload for publication in found]


@contextmanager
def sentinels(folder: Path, primary: Server) -> Generator[Server, None, None]:
    configuration = folder / "sentinel.conf"
    configuration.write_text(
        f"port {(port := free_port())}\n"
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 3000\n"
    )
    server = Server(primary.program, folder, port=port)
    server.start([server.program, str(configuration), "--sentinel"])
    try:
        yield server
    finally:
        server.kill()


async def test_a_cluster_shares_the_topics_among_its_servers() -> None:
    """Each topic's scripts run where its slot is, and wake-ups come through any server."""
    with ExitStack() as stack:
        servers = [stack.enter_context(redis_server("--cluster-enabled", "yes")) for _ in range(3)]
        for number, server in enumerate(servers):
            slots = range(number * _SLOTS // 3, (number + 1) * _SLOTS // 3)
            assert server.ask("CLUSTER", "ADDSLOTS", *map(str, slots)).startswith("+OK")
            server.ask("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
        for server in servers:
            wait_for(server, ["CLUSTER", "INFO"], "cluster_state:ok")
            wait_for(server, ["CLUSTER", "INFO"], "cluster_known_nodes:3")
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers[:2])
        url = f"redis+cluster://{hosts}"
        topics = [f"chat:{number}" for number in range(20)]
        found: list[Publication] = []
        async with (
            redis.open_redis(url) as one,
            redis.open_redis(url) as two,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(two.run, found.append)
            for topic in topics:
                await two.subscribe(topic)
            for topic in topics:
                for number in (1, 2):
                    position = await one.publish(topic, str(number).encode())
                    assert number == position.offset
            await until(lambda: len(found) == 40)
            assert 1 == await one.advance(topics[0], "ann", 1) == await two.cursor(topics[0], "ann")
            await until(lambda: two.statistics().nodes == 2 or one.statistics().nodes == 2)
            nursery.cancel_scope.cancel()
        for topic in topics:
            mine = [p.position.offset for p in found if p.topic == topic]
            assert [1, 2] == mine
        assert all(server.ask("DBSIZE") != ":0\r\n" for server in servers)


async def test_a_unix_socket(tmp_path: Path) -> None:
    """With the number of a database."""
    path = tmp_path / "redis.sock"
    with redis_server("--unixsocket", str(path)) as server:
        async with redis.open_redis(f"redis+unix://{path}?db=3") as broker:
            assert 1 == (await broker.publish("chat:a", b"x")).offset
            assert "db3" in server.ask("INFO", "keyspace")


async def test_tls(tmp_path: Path) -> None:
    """The certificate is checked against the authorities that the URL names."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with redis_server() as server:

        async def relay(secure: trio.SSLStream[trio.SocketStream]) -> None:
            plain = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with secure, plain, trio.open_nursery() as nursery:
                nursery.start_soon(pour, secure, plain, nursery.cancel_scope)
                nursery.start_soon(pour, plain, secure, nursery.cancel_scope)

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                partial(trio.serve_ssl_over_tcp, relay, 0, context, host="127.0.0.1")
            )
            port = listeners[0].transport_listener.socket.getsockname()[1]
            trusting = f"rediss://localhost:{port}?ssl_ca_certs={tmp_path / 'ca.pem'}"
            async with redis.open_redis(trusting) as broker:
                assert 1 == (await broker.publish("chat:a", b"x")).offset
            async with redis.open_redis(f"rediss://localhost:{port}?deadline=1") as broker:
                assert "certificate verify failed" in str(broker.problem)
            nursery.cancel_scope.cancel()


async def pour(
    source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, over: trio.CancelScope
) -> None:
    try:
        while data := await source.receive_some():
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client distrusts us
    over.cancel()
