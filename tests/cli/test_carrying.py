"""Questions between workers, over real channels and a clock that jumps."""

import socket
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_gateway.cli.workers.carrying import carry
from trio_gateway.cli.workers.control import MAX_LINE, Channel
from trio_gateway.cli.workers.line import Line
from trio_gateway.cli.workers.worker import Worker
from trio_gateway.http.ensemble import Answers, Ensemble

WITHIN = 2.0


@attrs.define
class Crew:
    """Workers that are tasks, each taught one question, and who carries between them.

    Attributes:
        workers: as their parent sees them, by process id.
        ensembles: as they see themselves.
        lives: cancelled, a worker is killed.
    """

    nursery: trio.Nursery
    workers: dict[int, Worker] = attrs.Factory(dict)
    ensembles: dict[int, Ensemble] = attrs.Factory(dict)
    lives: dict[int, trio.CancelScope] = attrs.Factory(dict)

    def add(self, pid: int, tell: Callable[[Any], Any] | None, *, ready: bool = True) -> None:
        """Start one; without ``tell`` it never reads."""
        here, there = socket.socketpair()
        ended = trio.Event()

        async def reap() -> int:
            await ended.wait()
            return 0

        async def live() -> None:
            line = Line(Channel(there))
            try:
                with scope:
                    if tell is None:
                        await trio.sleep_forever()
                    ensemble = self.ensembles[pid] = Ensemble()
                    ensemble.teach("who", tell)
                    line.join(ensemble)
                    await line.run(obey)
            finally:
                line.channel.close()
                ended.set()

        async def obey(_kind: str, _message: Any) -> None:
            await trio.lowlevel.checkpoint()

        worker = self.workers[pid] = Worker(number=pid, pid=pid, channel=Channel(here), reap=reap)
        scope = self.lives[pid] = trio.CancelScope()
        if ready:
            worker.ready.set()
        self.nursery.start_soon(live)
        self.nursery.start_soon(worker.run, self._carry)

    async def _carry(self, asker: Worker, number: int, what: str, about: str) -> None:
        async def carry_now() -> None:
            await carry(
                asker,
                list(self.workers.values()),
                number=number,
                what=what,
                about=about,
                restarts=3,
                within=WITHIN,
            )

        self.nursery.start_soon(carry_now)

    async def ask(self, pid: int) -> tuple[Answers, float]:
        """Ask through one; return the answers and how long they took."""
        began = trio.current_time()
        answers = await self.ensembles[pid].ask("who", name="é")
        return answers, round(trio.current_time() - began, 3)


async def test_all_are_asked(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The asker too, with the same words; whoever comes up is counted and not asked."""
    crew = Crew(nursery)

    def tell_as(pid: int) -> Callable[[Any], Any]:
        return lambda about: [pid, about["name"]]

    for pid in (1, 2, 3):
        crew.add(pid, tell_as(pid))
    crew.add(4, lambda _about: "too early", ready=False)
    await trio.sleep(1)
    for pid in (1, 2, 3):
        answers, took = await crew.ask(pid)
        assert ({pid: [pid, "é"] for pid in (1, 2, 3)}, 0) == (answers.said, took)
        assert ((), 4, 3) == (answers.silent, answers.workers, answers.restarts)


async def test_one_that_hangs(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It is silent after two seconds, and the others are heard; it can be asked again."""
    crew = Crew(nursery)
    crew.add(1, lambda _about: "here")
    crew.add(2, None)
    await trio.sleep(1)
    for _ in range(2):
        answers, took = await crew.ask(1)
        assert ({1: "here"}, (2,), WITHIN) == (answers.said, answers.silent, took)


async def test_one_that_dies_while_asked(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Its connections went with it: nothing is missing, and nobody waits for it."""
    crew = Crew(nursery)
    crew.add(1, lambda _about: "here")
    crew.add(2, None)
    await trio.sleep(1)

    async def kill() -> None:
        await trio.sleep(0.5)
        crew.lives[2].cancel()

    nursery.start_soon(kill)
    answers, took = await crew.ask(1)
    assert ({1: "here"}, (), 0.5) == (answers.said, answers.silent, took)
    # Dead and not replaced yet, it is not waited for either.
    answers, took = await crew.ask(1)
    assert ({1: "here"}, (), 0) == (answers.said, answers.silent, took)


async def test_one_that_comes_while_asked(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A roll: it is in the next answer, beside those that are to leave."""
    crew = Crew(nursery)
    crew.add(
        1, lambda _about: crew.add(2, lambda _about: "new") if 2 not in crew.workers else "old"
    )
    await trio.sleep(1)
    answers, _ = await crew.ask(1)
    assert {1: None} == answers.said
    await trio.sleep(1)
    answers, _ = await crew.ask(1)
    assert {1: "old", 2: "new"} == answers.said


async def test_a_parent_that_is_silent(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The asker speaks for itself after five seconds; a late answer disturbs nobody."""
    here, there = socket.socketpair()
    line, ensemble, parent = Line(Channel(there)), Ensemble(), Channel(here)
    ensemble.teach("who", lambda _about: "me")
    line.join(ensemble)

    async def obey(_kind: str, _message: Any) -> None:
        await trio.lowlevel.checkpoint()

    nursery.start_soon(line.run, obey)
    began = trio.current_time()
    answers = await ensemble.ask("who")
    assert (["me"], 1, 5) == (
        list(answers.said.values()),
        len(answers.silent),
        round(trio.current_time() - began, 3),
    )
    await parent.send("answer", id=1, pid=5, text='"late"')
    await parent.send("answered", id=1, workers=1, restarts=0)
    await trio.sleep(1)
    parent.close()
    line.channel.close()


async def test_long_answers(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Megabytes come through; what no message holds is no answer, and ends nothing."""
    crew = Crew(nursery)
    crew.add(1, lambda _about: "x" * 2_000_000)
    crew.add(2, lambda _about: "é" * 2_000_000)
    crew.add(3, lambda _about: "x" * MAX_LINE)
    await trio.sleep(1)
    answers, _ = await crew.ask(1)
    assert {1: 2_000_000, 2: 2_000_000} == {pid: len(said) for pid, said in answers.said.items()}
    assert (3,) == answers.silent
    assert not crew.workers[3].parted


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_message_that_is_cut(adopted: bool) -> None:
    """It takes no other with it, whether the same program goes on or the next."""
    here, there = socket.socketpair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    parent, worker = Channel(here), Channel(there)
    with trio.move_on_after(0.01) as scope:
        await parent.send("answer", id=1, pid=1, text="x" * 1_000_000)
    assert scope.cancelled_caught
    if adopted:
        parent = Channel(socket.socket(fileno=parent.detach()), cut=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent.send, "leave")
        with trio.fail_after(5):
            assert {"kind": "leave"} == await worker.receive()
    parent.close()
    worker.close()
    here.close()


@pytest.mark.parametrize(
    "pieces", [b"\n".join([b'{"kind":"a"}'] * 2) + b'\n\n[]\nx\n{"kind":"b"}\n']
)
async def test_messages_come_in_any_pieces(pieces: bytes) -> None:
    """A byte at a time; what is no message is passed over."""
    here, there = socket.socketpair()
    channel = Channel(there)
    kinds: list[str] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            while (message := await channel.receive()) is not None:
                kinds.append(message["kind"])

        nursery.start_soon(read)
        for byte in pieces:
            here.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        here.close()
    assert ["a", "a", "b"] == kinds
    channel.close()
