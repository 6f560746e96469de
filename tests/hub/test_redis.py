"""The broker in Redis when Redis fails: killed, paused, emptied, restarted; and several nodes."""

import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from tests.cluster.server import DURABLE, EACH, Server, redis_server
from trio_gateway.errors import ConfigurationError, StoreUnavailable
from trio_gateway.hub.broker import Publication, Retention
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.positions import Position

from .fakes import Recorder, greeting, line

redis = pytest.importorskip("trio_gateway.hub.redis", reason="the extra redis is not installed")

TOPIC = "chat:a"
# Long enough for a busy machine to answer in, short enough to be waited for.
QUICK = {"deadline": 2.0, "lease": 3.0}


@pytest.fixture
def server() -> Generator[Server, None, None]:
    with redis_server() as running:
        yield running


@pytest.fixture
def durable() -> Generator[Server, None, None]:
    with redis_server(*DURABLE) as running:
        yield running


async def until(condition: Callable[[], object]) -> None:
    """Wait for what comes from another process."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - of another process
            await trio.sleep(0.01)


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """Try until the store is back."""
    with trio.fail_after(20):
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await trio.sleep(0.05)


@attrs.define(eq=False)
class Node:
    broker: Any
    delivered: list[Publication]

    async def say(self, text: str, key: str | None = None) -> Position:
        position: Position = await self.broker.publish(TOPIC, text.encode(), key=key)
        return position

    @property
    def texts(self) -> list[str]:
        return [publication.payload.decode() for publication in self.delivered]


@asynccontextmanager
async def node(server: Server, **settings: Any) -> AsyncGenerator[Node, None]:
    """Open a broker that delivers ``TOPIC``."""
    found: list[Publication] = []
    options = redis.RedisSettings(**{**QUICK, **settings})
    async with (
        redis.open_redis(server.url, settings=options) as broker,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(broker.run, found.append)
        await broker.subscribe(TOPIC)
        yield Node(broker, found)
        nursery.cancel_scope.cancel()


async def test_nodes_hear_each_other(server: Server) -> None:
    """What one publishes both deliver, in the same order."""
    async with node(server) as ann, node(server) as bob:
        for number in range(10):
            await (ann, bob)[number % 2].say(str(number))
        await until(lambda: len(ann.texts) == len(bob.texts) == 10)
    assert [str(number) for number in range(10)] == ann.texts == bob.texts


async def test_one_script_call_a_publication(server: Server) -> None:
    """However many nodes there are: the server counts the calls."""

    def calls() -> dict[str, int]:
        lines = server.ask("INFO", "commandstats").splitlines()
        stats = dict(entry.split(":", 1) for entry in lines if entry.startswith("cmdstat_"))
        return {
            name.removeprefix("cmdstat_"): int(values.split(",")[0].removeprefix("calls="))
            for name, values in stats.items()
        }

    async with node(server) as ann, node(server) as bob, node(server) as cid:
        before = calls()
        for number in range(100):
            await ann.say(str(number))
        await until(lambda: len(ann.texts) == len(bob.texts) == len(cid.texts) == 100)
        after = calls()
    own = {"ping", "info", "zadd", "zremrangebyscore", "zrange", "zscore", "pexpire", "time"}
    spent = {name: after[name] - before.get(name, 0) for name in after if name not in own}
    assert spent["publish"] == 100
    assert 100 <= spent["evalsha"] <= 110  # the others renew leases
    assert "xrange" not in before or spent["xrange"] <= 200  # looks of the trimming, none of nodes


async def test_what_waits_is_written_at_once(server: Server) -> None:
    """A task that submits before it waits has its publications stored in its order."""
    async with node(server) as ann:
        receipts = [await ann.broker.submit(TOPIC, str(n).encode()) for n in range(200)]
        offsets = [(await receipt.position()).offset for receipt in receipts]
        await until(lambda: len(ann.texts) == 200)
    assert list(range(1, 201)) == offsets
    assert [str(n) for n in range(200)] == ann.texts


async def test_a_server_that_forgot_its_scripts_is_given_them_again(server: Server) -> None:
    """NOSCRIPT is no error, and nothing is stored twice."""
    async with node(server) as ann:
        server.ask("SCRIPT", "FLUSH")
        assert [1, 2] == [(await ann.say(text)).offset for text in "ab"]


@pytest.mark.parametrize("program", EACH)
async def test_a_restart_loses_and_doubles_nothing(program: str | None) -> None:
    """Publishers with keys insist; both nodes deliver each text once, under one epoch."""
    with redis_server(*DURABLE, program=program) as durable:
        await restart_while_publishing(durable)


async def restart_while_publishing(durable: Server) -> None:
    async with node(durable) as ann, node(durable) as bob:
        async with trio.open_nursery() as nursery:

            async def publish(who: Node, name: str) -> None:
                for number in range(60):
                    text = f"{name}{number}"
                    await insist(lambda text=text: who.say(text, key=text))  # type: ignore[misc]
                    await trio.sleep(0.01)

            nursery.start_soon(publish, ann, "a")
            nursery.start_soon(publish, bob, "b")
            for _ in range(3):
                await trio.sleep(0.1)
                durable.kill()
                durable.start()
        await until(lambda: len(ann.texts) >= 120 and len(bob.texts) >= 120)
        assert ann.delivered == bob.delivered
        expected = {f"{name}{number}" for name in "ab" for number in range(60)}
        assert (120, expected) == (len(ann.texts), set(ann.texts))
        assert list(range(1, 121)) == [p.position.offset for p in ann.delivered]
        assert 1 == len({p.position.epoch for p in ann.delivered})


async def test_a_pause_is_an_outage_with_an_end(durable: Server) -> None:
    """Publishers are told within the deadline; afterwards all that was stored is delivered."""
    async with node(durable) as ann, node(durable) as bob:
        await ann.say("before")
        durable.send_signal(signal.SIGSTOP)
        try:
            with trio.fail_after(10), pytest.raises(StoreUnavailable):
                await ann.say("meanwhile", key="k")
            await until(lambda: not (ann.broker.available or bob.broker.available))
            with trio.fail_after(10), pytest.raises(StoreUnavailable):
                await bob.say("meanwhile too")
        finally:
            durable.send_signal(signal.SIGCONT)
        await insist(lambda: ann.say("meanwhile", key="k"))
        await insist(lambda: bob.say("after"))
        await until(lambda: ann.texts[-1:] == bob.texts[-1:] == ["after"])
        assert ann.delivered == bob.delivered
        assert 1 == ann.texts.count("meanwhile")
        assert ann.broker.available


async def test_an_emptied_store_begins_anew(server: Server) -> None:
    """The epoch changes, and a position of before is told from one that is known."""
    async with node(server) as ann:
        before = [await ann.say(text) for text in "abc"][-1]
        server.ask("FLUSHALL")
        after = await ann.say("d")
        assert after.offset == 1
        assert after.epoch != before.epoch
        page = await ann.broker.history(TOPIC, since=before)
        assert (False, [b"d"]) == (page.recovered, [p.payload for p in page.publications])
        await until(lambda: ann.texts == ["a", "b", "c", "d"])


async def test_a_server_that_comes_back_without_its_data_begins_anew(server: Server) -> None:
    """As one that was emptied: nodes notice it by themselves."""
    async with node(server) as ann, node(server) as bob:
        before = await ann.say("a")
        server.kill()
        server.start()
        after = await insist(lambda: bob.say("b"))
        assert after.epoch != before.epoch
        await until(lambda: ann.texts == bob.texts == ["a", "b"])


async def test_a_server_that_lost_the_last_of_it_begins_anew(server: Server) -> None:
    """It has the topic, but less of it than a node has seen: offsets are not given twice."""
    async with node(server) as ann:
        first = await ann.say("a")
        keys = ann.broker._names.keys(TOPIC, "meta", "log")
        dumps = await dump(server, keys)
        await ann.say("b")
        await until(lambda: ann.texts == ["a", "b"])
        await restore(server, dumps)
        again = await ann.say("c")
        assert again.epoch != first.epoch
        page = await ann.broker.history(TOPIC, since=Position(first.epoch, 2))
        assert (False, [b"a", b"c"]) == (page.recovered, [p.payload for p in page.publications])


async def dump(server: Server, keys: list[str]) -> list[tuple[str, bytes]]:
    from coredis import Redis

    async with Redis(port=server.port) as client:
        return [(key, await client.dump(key)) for key in keys]


async def restore(server: Server, dumps: list[tuple[str, bytes]]) -> None:
    from coredis import Redis

    async with Redis(port=server.port) as client:
        for key, value in dumps:
            await client.restore(key, 0, value, replace=True)


async def test_a_server_that_is_not_there_is_waited_for(server: Server) -> None:
    """The broker opens and runs without it, unavailable, and delivers once it is there."""
    server.kill()
    options = redis.RedisSettings(**QUICK)
    found: list[Publication] = []
    async with redis.open_redis(server.url, settings=options) as broker:
        assert not broker.available
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run, found.append)
            with pytest.raises(StoreUnavailable):
                await broker.subscribe(TOPIC)
            server.start()
            await insist(lambda: broker.subscribe(TOPIC))
            assert broker.available
            await broker.publish(TOPIC, b"x")
            await until(lambda: found)
            nursery.cancel_scope.cancel()


async def test_a_server_that_throws_away_is_warned_of(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start, with what to set."""
    server.ask("CONFIG", "SET", "maxmemory", "100mb")
    async with redis.open_redis(server.url):
        assert not caplog.records
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with redis.open_redis(server.url):
        assert "set it to noeviction" in caplog.text


async def test_reads_wait_out_a_restart(durable: Server) -> None:
    """What may be asked twice is asked again, within the deadline."""
    async with node(durable) as ann:
        await ann.say("a")
        durable.kill()
        async with trio.open_nursery() as nursery:
            # A lambda: `start` has an argument by default, which confuses the type of start_soon.
            nursery.start_soon(trio.to_thread.run_sync, lambda: durable.start())  # noqa: PLW0108
            page = await ann.broker.history(TOPIC)
        assert [b"a"] == [publication.payload for publication in page.publications]


async def test_a_full_server_takes_nothing_and_says_so(server: Server) -> None:
    """StoreUnavailable, nothing half stored, and all is well when there is room again."""
    async with node(server) as ann:
        await ann.say("a")
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable):
            await ann.say("b")
        assert [b"a"] == [p.payload for p in (await ann.broker.history(TOPIC)).publications]
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert 2 == (await ann.say("b")).offset


async def test_one_that_is_closed_refuses_at_once(server: Server) -> None:
    """Whoever still holds it need not wait for a deadline."""
    async with node(server) as ann:
        assert 1 == (await ann.say("a")).offset
    with trio.fail_after(QUICK["deadline"] / 2), pytest.raises(StoreUnavailable):
        await ann.say("b")
    assert not ann.broker.available


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis://",
        "redis://a,b",
        "redis://localhost:x",
        "redis://localhost/x",
        "redis://localhost/1/2",
        "redis://localhost?nonsense=1",
        "redis://localhost?deadline=x",
        "redis://localhost?deadline=0",
        "redis://localhost?prefix={a}",
        "redis://localhost#x",
        "redis+sentinel://localhost",
        "redis+cluster://localhost/1",
        "rediss://localhost?ssl_ca_certs=/nowhere",
    ],
)
async def test_a_url_that_cannot_be_right_is_refused(url: str) -> None:
    """In one line, before anything is tried."""
    with pytest.raises(ConfigurationError) as caught:
        async with redis.open_redis(url):
            raise AssertionError
    assert "\n" not in str(caught.value)


async def test_a_wrong_password_is_refused_and_not_shown(server: Server) -> None:
    """It is the operator's to mend; the right one is accepted."""
    server.ask("CONFIG", "SET", "requirepass", "s3cret")
    wrong = f"redis://:n0t-it@127.0.0.1:{server.port}"
    with pytest.raises(ConfigurationError) as caught:
        async with redis.open_redis(wrong):
            raise AssertionError
    assert "n0t-it" not in str(caught.value)
    async with redis.open_redis(f"redis://:s3cret@127.0.0.1:{server.port}") as broker:
        assert "s3cret" not in broker.address
        assert 1 == (await broker.publish(TOPIC, b"x")).offset


@asynccontextmanager
async def hubs(server: Server, count: int) -> AsyncGenerator[list[tuple[Hub, Any]], None]:
    """Run hubs on nodes of their own."""
    async with trio.open_nursery() as nursery:

        async def host(task_status: trio.TaskStatus[tuple[Hub, Any]]) -> None:
            options = redis.RedisSettings(lease=1.0, deadline=2.0)
            scope = trio.CancelScope()
            with scope:
                async with redis.open_redis(server.url, settings=options) as broker:
                    broker.scope = scope
                    hub = Hub(broker)
                    hub.encode_with("chat", line, presence=presence)
                    async with trio.open_nursery() as inner:
                        await inner.start(hub.run)
                        task_status.started((hub, broker))

        found = [await nursery.start(host) for _ in range(count)]
        yield found
        nursery.cancel_scope.cancel()


def key_of_members(hub: Hub) -> str:
    broker: Any = hub.broker
    key: str = broker._names.keys(TOPIC, "here")[0]
    return key


def presence(_topic: str, change: Any) -> bytes:
    came, went = ",".join(change.joined), ",".join(change.left)
    return f"presence {change.count} +{came} -{went}\n".encode()


async def test_members_are_counted_over_nodes(server: Server) -> None:
    """Each user once, at every node; and at one that has no subscriber of the topic."""
    async with hubs(server, 3) as [(one, _), (two, _), (three, _)]:
        await one.subscribe(TOPIC, ann := Recorder(), user="ann")
        await one.subscribe(TOPIC, Recorder(), user="bob")
        await two.subscribe(TOPIC, twin := Recorder(), user="ann")
        await two.subscribe(TOPIC, Recorder(), user="cid")
        await until(lambda: (3, 3) == (one.members(TOPIC)[0], two.members(TOPIC)[0]))
        assert {"ann", "bob", "cid"} == set(one.members(TOPIC)[1]) == set(two.members(TOPIC)[1])
        count, names = await three.look_up_members(TOPIC)
        assert (3, {"ann", "bob", "cid"}) == (count, set(names))
        await one.unsubscribe(TOPIC, ann)
        await two.subscribe("chat:b", twin, user="ann")
        assert 3 == one.members(TOPIC)[0]
        await two.unsubscribe(TOPIC, twin)
        await until(lambda: (2, 2) == (one.members(TOPIC)[0], two.members(TOPIC)[0]))
        joined = await three.subscribe(TOPIC, Recorder(), user="dan", greet=greeting)
        assert 3 == joined.members


async def test_listeners_hear_of_users_of_other_nodes(server: Server) -> None:
    """Presence frames are of all nodes."""
    async with hubs(server, 2) as [(one, _), (two, _)]:
        await one.subscribe(TOPIC, ann := Recorder(), user="ann", presence=True)
        await two.subscribe(TOPIC, bob := Recorder(), user="bob")
        await until(lambda: "presence 2 +bob -" in ann.lines)
        await two.unsubscribe(TOPIC, bob)
        await until(lambda: "presence 1 + -bob" in ann.lines)


async def test_the_users_of_a_node_that_died_are_gone_after_its_lease(server: Server) -> None:
    """It could say nothing; the others and the store forget it."""
    async with hubs(server, 2) as [(one, _), (two, dying)]:
        await one.subscribe(TOPIC, ann := Recorder(), user="ann", presence=True)
        await two.subscribe(TOPIC, Recorder(), user="bob")
        await until(lambda: one.members(TOPIC)[0] == 2)
        dying.close = trio.lowlevel.checkpoint  # no word of its end
        dying._life.cancel()
        await until(lambda: (1, ["ann"]) == one.members(TOPIC))
        await until(lambda: "presence 1 + -bob" in ann.lines)
        key = key_of_members(one)
        await until(lambda: "bob" not in server.ask("HKEYS", key))
        dying.scope.cancel()


async def test_presence_comes_back_after_the_store_was_emptied(server: Server) -> None:
    """Each node says again who is in."""
    async with hubs(server, 2) as [(one, _), (two, _)]:
        await one.subscribe(TOPIC, Recorder(), user="ann")
        await two.subscribe(TOPIC, Recorder(), user="bob")
        await until(lambda: one.members(TOPIC)[0] == two.members(TOPIC)[0] == 2)
        server.ask("FLUSHALL")
        key = key_of_members(one)
        await until(lambda: all(user in server.ask("HKEYS", key) for user in ("ann", "bob")))
        await until(lambda: one.members(TOPIC)[0] == two.members(TOPIC)[0] == 2)


async def test_frames_that_are_not_stored_reach_other_nodes(server: Server) -> None:
    """Once, after what was published before them; the one who is excluded gets none."""
    async with hubs(server, 2) as [(one, _), (two, _)]:
        await one.subscribe(TOPIC, ann := Recorder(), user="ann")
        await two.subscribe(TOPIC, bob := Recorder(), user="bob")
        await one.publish(TOPIC, b"hello")
        one.broadcast(TOPIC, b"typing\n", exclude=ann)
        await until(lambda: "typing" in bob.lines)
        await one.publish(TOPIC, b"end")
        await until(lambda: "3 end" in ann.lines or "2 end" in ann.lines)
    assert ["1 hello", "typing", "2 end"] == bob.lines
    assert ["1 hello", "2 end"] == ann.lines


async def test_a_user_is_disconnected_at_all_nodes(server: Server) -> None:
    """By an order that each node obeys; others stay."""
    async with hubs(server, 2) as [(one, _), (two, _)]:
        await one.subscribe(TOPIC, here := Recorder(), user="ann")
        await two.subscribe("chat:b", there := Recorder(), user="ann")
        await two.subscribe(TOPIC, bob := Recorder(), user="bob")
        assert 1 == await one.disconnect_user("ann", 4403, "no more")
        await until(lambda: there.disconnected)
    assert [(4403, "no more")] == here.disconnected == there.disconnected
    assert [] == bob.disconnected


async def test_a_node_that_was_slow_reads_what_was_trimmed_as_a_gap(server: Server) -> None:
    """The stream jumps; it neither stops nor repeats."""
    retention = Retention(max_publications=5)
    options = redis.RedisSettings(**QUICK)
    found: list[Publication] = []
    async with redis.open_redis(server.url, retention=retention, settings=options) as broker:
        await broker.subscribe(TOPIC)
        for number in range(20):
            await broker.publish(TOPIC, str(number).encode())
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run, found.append)
            await until(lambda: len(found) == 5)
            nursery.cancel_scope.cancel()
    assert [16, 17, 18, 19, 20] == [publication.position.offset for publication in found]
