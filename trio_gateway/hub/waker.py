"""One task sleeps until anyone wakes it: no timer, no allocation, no latency.

In: ``wake()`` from any task. Out: the sleeper runs on the scheduler's next tick. The rule: the
sleeper looks for work before each sleep, with no checkpoint in between, so no wake-up is lost.
"""

import trio


class Waker:
    """Where the one task of a queue sleeps while there is nothing in it."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    def wake(self) -> None:
        """Wake the sleeper, if there is one."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Sleep until the next ``wake()``; cancelled, it just ends."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
