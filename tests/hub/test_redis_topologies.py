"""Redis behind sentinels, in a cluster and through a Unix socket; primaries that fail."""

import binascii
import itertools
import re
import signal
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

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


@contextmanager
def cluster(*options: str) -> Generator[list[Server], None, None]:
    """Run three servers that share the slots."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(redis_server("--cluster-enabled", "yes", *options))
            for _ in range(3)
        ]
        for number, server in enumerate(servers):
            slots = range(number * _SLOTS // 3, (number + 1) * _SLOTS // 3)
            assert server.ask("CLUSTER", "ADDSLOTS", *map(str, slots)).startswith("+OK")
            # Else a failover's vote may be refused for want of an order among them.
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            server.ask("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
        for server in servers:
            wait_for(server, ["CLUSTER", "INFO"], "cluster_state:ok")
            wait_for(server, ["CLUSTER", "INFO"], "cluster_known_nodes:3")
        yield servers


async def test_a_cluster_shares_the_topics_among_its_servers() -> None:
    """Each topic's scripts run where its slot is, and wake-ups come through any server."""
    with cluster() as servers:
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


async def test_a_failover_in_a_cluster_loses_and_doubles_nothing() -> None:
    """Publishers are told within the deadline, and go on with what the replica had."""
    quick = ("--cluster-node-timeout", "1000")
    with cluster(*quick) as servers, replica_of(servers, *quick) as replica:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers[1:])
        url = f"redis+cluster://{hosts}?deadline=1"
        found: list[Publication] = []
        topic = first_topic()
        async with redis.open_redis(url) as broker, trio.open_nursery() as nursery:
            await nursery.start(broker.run, found.append)
            await broker.subscribe(topic)
            before = [await broker.publish(topic, text) for text in (b"a", b"b")][-1]
            await replicated(servers[0], replica)  # Redis acknowledges before that
            servers[0].kill()
            with trio.fail_after(10), pytest.raises(StoreUnavailable):
                await broker.publish(topic, b"c", key="c")
            after = await insist(broker, topic, "c")
            assert (before.epoch, 3) == (after.epoch, after.offset)
            await until(lambda: len(found) == 3)
            nursery.cancel_scope.cancel()
        assert "role:master" in replica.ask("INFO", "replication")
    assert [b"a", b"b", b"c"] == [publication.payload for publication in found]


@pytest.mark.long
async def test_a_failover_that_loses_the_last_of_it_begins_anew() -> None:
    """What the replica never got a node has seen: its offsets are not given twice."""
    quick = ("--cluster-node-timeout", "1000")
    with cluster(*quick) as servers, replica_of(servers, *quick) as replica:
        url = f"redis+cluster://127.0.0.1:{servers[1].port}?deadline=1"
        found: list[Publication] = []
        topic = first_topic()
        async with redis.open_redis(url) as broker, trio.open_nursery() as nursery:
            await nursery.start(broker.run, found.append)
            await broker.subscribe(topic)
            await broker.publish(topic, b"a")
            await replicated(servers[0], replica)
            replica.send_signal(signal.SIGSTOP)
            servers[0].ask("CLIENT", "KILL", "TYPE", "replica")  # nothing waits in its socket
            before = await broker.publish(topic, b"lost")
            await until(lambda: len(found) == 2)
            servers[0].kill()
            replica.send_signal(signal.SIGCONT)
            after = await insist(broker, topic, "c")
            assert before.epoch != after.epoch
            await until(lambda: found[-1].payload == b"c")
            page = await broker.history(topic, since=before)
            assert (False, [b"a", b"c"]) == (page.recovered, [p.payload for p in page.publications])
            nursery.cancel_scope.cancel()


@contextmanager
def replica_of(servers: list[Server], *options: str) -> Generator[Server, None, None]:
    """Run a replica of the first server of a cluster."""
    with redis_server("--cluster-enabled", "yes", *options) as replica:
        replica.ask("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
        for server in (*servers, replica):
            wait_for(server, ["CLUSTER", "INFO"], "cluster_known_nodes:4")
        name = servers[0].ask("CLUSTER", "MYID").splitlines()[1]
        wait_for(replica, ["CLUSTER", "REPLICATE", name], "+OK")
        wait_for(replica, ["INFO", "replication"], "master_link_status:up")
        for server in servers:
            wait_for(server, ["CLUSTER", "NODES"], f"slave {name}")
        yield replica


async def replicated(primary: Server, replica: Server) -> None:
    """Wait until the replica has what the primary has now."""

    def offset(server: Server, name: str) -> int:
        found = re.search(f"{name}:([0-9]+)", server.ask("INFO", "replication"))
        assert found is not None
        return int(found[1])

    wanted = offset(primary, "master_repl_offset")
    await until(lambda: offset(replica, "slave_repl_offset") >= wanted)


def first_topic() -> str:
    """Return a topic that is the first server's."""
    names = redis.settings.Names(redis.RedisSettings().prefix)
    topics = (f"chat:{number}" for number in itertools.count())
    return next(topic for topic in topics if slot_of(*names.keys(topic, "log")) < _SLOTS // 3)


def slot_of(key: str) -> int:
    tag = key[key.index("{") + 1 : key.index("}")]
    return binascii.crc_hqx(tag.encode(), 0) % _SLOTS
