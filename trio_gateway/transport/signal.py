"""Ways to wait that cost little while they wait: one task for a signal, several in a queue.

Trio's Event and ParkingLot do the same for more: a thousand idle connections hold one each.
"""

from collections.abc import Callable
from functools import partial

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task


class Signal:
    """``set()`` wakes the one waiter, or lets the next ``wait()`` pass."""

    __slots__ = ("_pending", "_waiter")

    def __init__(self) -> None:
        self._pending = False
        self._waiter: Task | None = None

    def set(self) -> None:
        """Wake the waiter; several calls before it runs count as one."""
        waiter = self._waiter
        if waiter is None:
            self._pending = True
        else:
            self._waiter = None
            trio.lowlevel.reschedule(waiter)

    async def wait(self) -> None:
        """Wait for ``set()``; a cancelled wait takes no signal away.

        Raises:
            trio.BusyResourceError: another task is waiting.
        """
        if self._waiter is not None:
            raise trio.BusyResourceError("another task is waiting for this signal")
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._pending:
            self._pending = False
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._waiter = trio.lowlevel.current_task()

        def abort(_: RaiseCancelT) -> Abort:
            self._waiter = None
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class WaitingTasks:
    """Tasks waiting in the order they came; ``trio.lowlevel.ParkingLot`` at a third of its size."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    async def wait(self) -> None:
        """Wait to be woken; a cancelled wait takes no wake-up away. Always a schedule point."""
        await trio.lowlevel.wait_task_rescheduled(self.enter())

    def enter(self) -> Callable[[RaiseCancelT], Abort]:
        """Queue the current task, which then calls ``wait_task_rescheduled`` with what this gives.

        For the hot path, where ``wait()`` would be one coroutine more.
        """
        task = trio.lowlevel.current_task()
        self._tasks.append(task)
        return partial(self._give_up, task)

    def wake_one(self) -> None:
        """Wake who waits longest, if anybody does."""
        if self._tasks:
            trio.lowlevel.reschedule(self._tasks.pop(0))

    def wake_all(self) -> None:
        """Wake everybody."""
        while self._tasks:
            self.wake_one()

    def _give_up(self, task: Task, _: RaiseCancelT) -> Abort:
        self._tasks.remove(task)
        return Abort.SUCCEEDED
