"""Signals and waiting tasks: no wake-up is lost, none is taken by whoever is cancelled."""

import pytest
import trio
import trio.testing

from trio_gateway.transport.signal import Signal, WaitingTasks


async def test_a_signal_that_came_before_lets_the_wait_pass() -> None:
    """``set()`` is remembered, once, however often it was called."""
    signal = Signal()
    signal.set()
    signal.set()
    with trio.testing.assert_checkpoints():
        await signal.wait()
    with trio.move_on_after(0) as scope:
        await signal.wait()
    assert scope.cancelled_caught


async def test_a_signal_wakes_its_waiter(nursery: trio.Nursery) -> None:
    """The waiter goes on after ``set()`` and not before."""
    signal, passed = Signal(), trio.Event()

    async def wait() -> None:
        await signal.wait()
        passed.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    assert not passed.is_set()
    signal.set()
    await passed.wait()


async def test_a_signal_between_wake_up_and_run_is_kept(nursery: trio.Nursery) -> None:
    """Set again before the woken task has run, the next wait passes too."""
    signal = Signal()
    waits = []

    async def wait_twice() -> None:
        for number in range(2):
            await signal.wait()
            waits.append(number)

    nursery.start_soon(wait_twice)
    await trio.testing.wait_all_tasks_blocked()
    signal.set()
    signal.set()
    await trio.testing.wait_all_tasks_blocked()
    assert [0, 1] == waits


async def test_a_cancelled_wait_takes_no_signal() -> None:
    """Cancelled with the signal set, or before it, the signal is there for the next wait."""
    signal = Signal()
    with trio.CancelScope() as scope:
        scope.cancel()
        await signal.wait()
    signal.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await signal.wait()
    assert scope.cancelled_caught
    await signal.wait()


async def test_a_signal_has_one_waiter(nursery: trio.Nursery) -> None:
    """A second task that waits is told, and the first is not disturbed."""
    signal = Signal()
    nursery.start_soon(signal.wait)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError, match="another task"):
        await signal.wait()
    signal.set()


class Queue:
    """Tasks that wait in a ``WaitingTasks``, and in which order they were woken."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.tasks = WaitingTasks()
        self.woken: list[str] = []
        self._nursery = nursery

    async def wait(self, name: str, scope: trio.CancelScope | None = None) -> None:
        async def wait() -> None:
            with scope or trio.CancelScope():
                await self.tasks.wait()
                self.woken.append(name)

        self._nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()


async def test_waiting_tasks_are_woken_in_turn(nursery: trio.Nursery) -> None:
    """One at a time who waits longest, or all of them."""
    queue = Queue(nursery)
    for name in "abcd":
        await queue.wait(name)
    queue.tasks.wake_one()
    await trio.testing.wait_all_tasks_blocked()
    assert ["a"] == queue.woken
    queue.tasks.wake_one()
    await trio.testing.wait_all_tasks_blocked()
    queue.tasks.wake_all()
    await trio.testing.wait_all_tasks_blocked()
    assert ["c", "d"] == sorted(queue.woken[2:])
    assert ["a", "b"] == queue.woken[:2]


async def test_waking_nobody_is_forgotten(nursery: trio.Nursery) -> None:
    """A wake-up while nobody waits is not kept for the next."""
    queue = Queue(nursery)
    queue.tasks.wake_one()
    queue.tasks.wake_all()
    await queue.wait("a")
    assert [] == queue.woken
    queue.tasks.wake_one()


async def test_a_cancelled_task_takes_no_wake_up(nursery: trio.Nursery) -> None:
    """The wake-up goes to the next who waits."""
    queue, scope = Queue(nursery), trio.CancelScope()
    await queue.wait("cancelled", scope)
    await queue.wait("b")
    scope.cancel()
    queue.tasks.wake_one()
    await trio.testing.wait_all_tasks_blocked()
    assert ["b"] == queue.woken
