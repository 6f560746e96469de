"""A Trio run that synchronous code steps, so that a Hypothesis state machine can hold one.

In: async functions, one at a time. Out: what each returns or raises. The rule: between two steps
the run stands still, and its clock with it.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.testing

_T = TypeVar("_T")
_MAX_TICKS = 20_000  # of one step, which takes tens


class SteppedClock(trio.abc.Clock):
    """A clock that moves by ``jump()`` only.

    Attributes:
        waiting: whether somebody waits until all tasks are blocked. Nobody else ever sleeps: Trio
            would go to a thread for that, which costs more than all the rest of a step.
    """

    def __init__(self) -> None:
        self.waiting = False
        self._now = 0.0

    def start_clock(self) -> None:
        """Nothing to do."""

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return float(self.waiting and deadline > self._now)

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class GuestRun:
    """One ``trio.lowlevel.start_guest_run()`` on virtual time.

    Attributes:
        clock: moves by ``jump()`` only.
        nursery: for tasks that outlive a step; cancelled by ``close()``.
    """

    nursery: trio.Nursery

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self._calls: deque[Callable[[], object]] = deque()
        self._token: trio.lowlevel.TrioToken | None = None
        self._ended: Any = None
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._calls.append,
            done_callback=self._done,
            clock=self.clock,
        )
        self._pump(lambda: self._token is not None)

    def do(self, function: Callable[..., Awaitable[_T]], *arguments: object) -> _T:
        """Run an async function to its end, then all other tasks until they are blocked."""
        results: list[_T] = []
        errors: list[Exception] = []

        async def job() -> None:
            try:
                results.append(await function(*arguments))
            except Exception as error:
                errors.append(error)
            self.clock.waiting = True
            await trio.testing.wait_all_tasks_blocked()
            self.clock.waiting = False

        ended = self._spawn(job)
        self._pump(ended)
        if errors:
            raise errors[0]
        return results[0]

    def settle(self) -> None:
        """Run all tasks until they are blocked."""
        self.do(trio.lowlevel.checkpoint)

    def close(self) -> None:
        """Cancel everything and wait for its end; raises what the run raised."""
        if self._ended is None:
            assert self._token is not None
            self._token.run_sync_soon(self.nursery.cancel_scope.cancel)
            self._pump(lambda: self._ended is not None)
        ended: Any = self._ended
        ended.unwrap()

    def _spawn(self, job: Callable[[], Awaitable[None]]) -> Callable[[], bool]:
        ended = False

        async def spawned() -> None:
            nonlocal ended
            try:
                await job()
            finally:
                ended = True

        assert self._token is not None
        self._token.run_sync_soon(self.nursery.start_soon, spawned)
        return lambda: ended

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self._token = trio.lowlevel.current_trio_token()
            await trio.sleep_forever()

    def _done(self, outcome: Any) -> None:
        self._ended = outcome

    def _pump(self, until: Callable[[], bool]) -> None:
        for _ in range(_MAX_TICKS):
            if until():
                return
            if self._ended is not None:
                self._ended.unwrap()
                raise RuntimeError("the Trio run has ended")
            self._calls.popleft()()
        raise TimeoutError(f"a step of {_MAX_TICKS} ticks: somebody waits for ever")
