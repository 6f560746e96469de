"""The supervisor's patience, with workers that are tasks and a clock that jumps."""

import os
import signal
import socket
from collections.abc import Callable

import attrs
import trio
from trio.testing import MockClock

from trio_gateway.cli.listening import Opened
from trio_gateway.cli.notifying import Systemd
from trio_gateway.cli.options import serve_options
from trio_gateway.cli.workers.control import Channel
from trio_gateway.cli.workers.supervisor import Supervisor
from trio_gateway.cli.workers.worker import Worker

_NEVER = float("inf")


@attrs.frozen
class Fate:
    """What becomes of a worker.

    Attributes:
        lives: seconds from its start, or from when it serves.
        status: it ends with.
        serves: whether it gets that far.
        drains: whether it ends when it is told to leave.
        hangs: when it ceases to answer.
    """

    lives: float = _NEVER
    status: int = 0
    serves: bool = True
    drains: bool = True
    hangs: float = _NEVER


class Task(Worker):
    """A worker that is a task."""

    def kill(self) -> None:
        """As SIGKILL does."""
        self.scope.cancel()

    scope: trio.CancelScope


@attrs.define(eq=False)
class World:
    """A supervisor of tasks.

    Attributes:
        fate: of the next worker, by its number and how many there were before.
        started: the times at which workers were started.
        channels: the workers' ends, in the order of starting.
        answers: to questions; a worker answers with its place in that order.
    """

    nursery: trio.Nursery
    fate: Callable[[int, int], Fate]
    started: list[float] = attrs.Factory(list)
    killed: int = 0
    alive: int = 0
    channels: list[Channel] = attrs.Factory(list)
    answers: list[int] = attrs.Factory(list)
    supervisor: Supervisor = attrs.field(init=False)

    def make(self, workers: int = 2) -> Supervisor:
        flags = {"port": "0", "store": "redis://x", "workers": str(workers), "grace": "3"}
        self.supervisor = Supervisor(
            serve_options(flags, {}),
            heritage=None,
            strangers=[],
            systemd=Systemd({}),
            early=[],
            spawn=self.spawn,
        )
        return self.supervisor

    async def spawn(self, number: int, _opened: Opened, _token: str | None) -> Worker:
        here, there = socket.socketpair()
        ended = trio.Event()
        fate = self.fate(number, len(self.started))
        self.started.append(trio.current_time())

        async def reap() -> int:
            await ended.wait()
            return -9 if worker.scope.cancelled_caught else fate.status

        pid = len(self.channels)
        worker = Task(number=number, pid=pid, channel=Channel(here), reap=reap)
        worker.scope = trio.CancelScope()
        self.channels.append(Channel(there))
        self.nursery.start_soon(self._live, worker, self.channels[-1], fate, ended)
        return worker

    async def _live(self, worker: Task, channel: Channel, fate: Fate, ended: trio.Event) -> None:
        self.alive += 1
        try:
            with worker.scope, trio.move_on_after(fate.lives):
                await channel.send("prepared")
                if not fate.serves:
                    await trio.sleep_forever()
                while (message := await channel.receive()) is not None:
                    if trio.current_time() > self.started[0] + fate.hangs:
                        await trio.sleep_forever()
                    if message["kind"] == "ping":
                        await channel.send("pong")
                    if message["kind"] == "tell":
                        await channel.send("told", id=message["id"], text=str(worker.pid))
                    if message["kind"] == "answer":
                        self.answers.append(int(message["text"]))
                    if message["kind"] == "go":
                        await channel.send("ready", store="redis")
                    if message["kind"] == "leave" and fate.drains:
                        break
            self.killed += worker.scope.cancelled_caught
        finally:
            self.alive -= 1
            channel.close()
            ended.set()


async def test_a_crash_loop_ends(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Ten deaths with nobody left to serve, each awaited longer: status 1 after half a minute."""
    world = World(nursery, lambda _number, _count: Fate(0, 1))
    supervisor = world.make()
    await supervisor.run()
    assert (1, 10) == (supervisor.status, len(world.started))
    pauses = [
        round(later - earlier, 3)
        for earlier, later in zip(world.started, world.started[1:], strict=False)
    ]
    assert [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10] == pauses


async def test_wrong_use_is_no_crash(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A first worker that ends with 2 has said why; there is no second try."""
    world = World(nursery, lambda _number, _count: Fate(0, 2))
    supervisor = world.make()
    await supervisor.run()
    assert (2, 1) == (supervisor.status, len(world.started))


async def test_those_who_serve_go_on(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """One that keeps dying takes nobody with it, and is tried every ten seconds in the end."""
    world = World(nursery, lambda number, _count: Fate() if number == 1 else Fate(0.5, 1))
    supervisor = world.make()
    with trio.move_on_after(600):
        await supervisor.run()
    assert 0 == supervisor.status
    assert 50 < len(world.started) < 100


async def test_the_dead_are_replaced_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A worker that has lived is worth no pause, and its death counts for nothing."""
    world = World(nursery, lambda _number, _count: Fate(60, -11))
    supervisor = world.make(1)
    with trio.move_on_after(2_990):
        await supervisor.run()
    assert 50 == len(world.started)
    assert [60.0 * count for count in range(50)] == [
        round(moment - world.started[0], 3) for moment in world.started
    ]


async def test_a_new_version_that_does_not_serve(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """After a minute it is given up, and the old workers go on."""
    world = World(nursery, lambda _number, count: Fate(serves=count < 2))
    supervisor = world.make()
    nursery.start_soon(supervisor.run)
    await trio.sleep(1)
    os.kill(os.getpid(), signal.SIGHUP)
    await trio.sleep(1)
    assert 4 == world.alive
    await trio.sleep(120)
    assert (2, 2) == (world.alive, world.killed)
    os.kill(os.getpid(), signal.SIGTERM)
    await trio.sleep(1)
    assert (0, 2) == (world.alive, world.killed)


async def test_one_that_does_not_end(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It is killed when its grace period and five seconds are over."""
    world = World(nursery, lambda _number, _count: Fate(drains=False))
    supervisor = world.make()
    nursery.start_soon(supervisor.run)
    await trio.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    await trio.sleep(7.9)
    assert (2, 0) == (world.alive, world.killed)
    await trio.sleep(0.2)
    assert (0, 2) == (world.alive, world.killed)
    assert 0 == supervisor.status


async def test_one_that_hangs(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Half a minute without an answer, and it is killed and replaced; the other goes on."""
    world = World(nursery, lambda _number, count: Fate(hangs=100 if count == 1 else _NEVER))
    supervisor = world.make()
    nursery.start_soon(supervisor.run)
    await trio.sleep(130)
    assert (2, 0) == (len(world.started), world.killed)
    await trio.sleep(1_000)
    assert (3, 1, 2) == (len(world.started), world.killed, world.alive)
    nursery.cancel_scope.cancel()


async def test_a_roll_while_asked(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Old and new live side by side, and both are asked, whoever asks; then the new ones alone."""
    world = World(nursery, lambda _number, count: Fate(drains=count >= 2))
    supervisor = world.make()
    nursery.start_soon(supervisor.run)
    await trio.sleep(1)

    async def ask(worker: int) -> list[int]:
        world.answers.clear()
        await world.channels[worker].send("ask", id=1, what="who", about="")
        await trio.sleep(0.1)
        return sorted(world.answers)

    assert [0, 1] == await ask(0)
    os.kill(os.getpid(), signal.SIGHUP)
    await trio.sleep(1)
    assert [0, 1, 2, 3] == await ask(1) == await ask(3)
    await trio.sleep(30)
    assert [2, 3] == await ask(2)
    os.kill(os.getpid(), signal.SIGTERM)
    await trio.sleep(5)
    assert 0 == world.alive


async def test_a_roll_replaces_all(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """New ones serve before the old ones leave; one more request in between is obeyed after it."""
    world = World(nursery, lambda _number, _count: Fate())
    supervisor = world.make(3)
    nursery.start_soon(supervisor.run)
    await trio.sleep(1)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGHUP)
        await trio.sleep(0.1)
    await trio.sleep(5)
    assert (9, 3, 0) == (len(world.started), world.alive, world.killed)
    os.kill(os.getpid(), signal.SIGINT)
    await trio.sleep(5)
    assert 0 == world.alive
