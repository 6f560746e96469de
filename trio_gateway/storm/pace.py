"""How many sockets at once, and how many a second: what keeps a storm within its bounds.

In: a rate, a maximum. Out: leave to open the next socket. The rule: nobody opens one without.
"""

import trio

_SOON = 0.001


class Pace:
    """Hands out leave to connect.

    Arguments:
        rate: connects a second, at most.
        max_open: sockets at once.

    Attributes:
        open: how many have leave now.
        connects: how many had it.
    """

    def __init__(self, rate: float, max_open: int) -> None:
        self.open = 0
        self.connects = 0
        self._interval = 1 / rate
        self._next = trio.current_time()
        self._places = trio.Semaphore(max_open)

    async def enter(self) -> None:
        """Wait for leave; one whose wait is cancelled has none."""
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            await self._places.acquire()
        try:
            now = trio.current_time()
            self._next = max(self._next + self._interval, now - _SOON)
            if self._next > now + _SOON:
                await trio.sleep_until(self._next)
        except BaseException:
            self._places.release()
            raise
        self.open += 1
        self.connects += 1

    def leave(self) -> None:
        """Give it back."""
        self.open -= 1
        self._places.release()
