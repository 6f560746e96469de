"""Who is in a topic, and telling those who asked, at most once a second.

In: users arriving and departing, one for each of their connections. Out: counts, names, and one
net change per topic and interval. The rule: whoever came and went within an interval is not
mentioned, and in a crowd the count stands alone, because presence is O(N²) otherwise.
"""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from trio_gateway.hub.waker import Waker


class PresenceEncoder(Protocol):
    """Makes the frame that tells of a change in a topic."""

    def __call__(
        self, topic: str, count: int, joined: tuple[str, ...], left: tuple[str, ...], /
    ) -> bytes:
        """Return a complete WebSocket frame.

        Args:
            topic: ``kind:name``.
            count: of distinct users now.
            joined: who came since the last change, in order; empty in a crowd.
            left: who went; empty in a crowd. With both empty, the count stands alone.
        """
        ...


@attrs.frozen
class Change:
    """The net change of a topic in one interval; without names in a crowd."""

    count: int
    joined: tuple[str, ...]
    left: tuple[str, ...]


@attrs.define(eq=False)
class Roster:
    """The distinct users of a topic, with the number of connections of each."""

    _users: dict[str, int] = attrs.Factory(dict)
    # Users who came or went since the last change was taken, and whether they were in before.
    _changed: dict[str, bool] = attrs.Factory(dict)
    _crowd: bool = False
    _due: bool = False

    @property
    def count(self) -> int:
        """How many distinct users are in."""
        return len(self._users)

    def __contains__(self, user: str) -> bool:
        return user in self._users

    def names(self, limit: int) -> list[str]:
        """Return up to ``limit`` users, longest in first."""
        return list(islice(self._users, limit))

    def arrive(self, user: str) -> bool:
        """Count one more connection of a user; return whether the user was not in before."""
        connections = self._users.get(user, 0)
        self._users[user] = connections + 1
        return connections == 0

    def depart(self, user: str) -> bool:
        """Count one connection less of a user; return whether it was the last."""
        connections = self._users[user]
        if connections > 1:
            self._users[user] = connections - 1
            return False
        del self._users[user]
        return True

    def note(self, user: str, *, was_in: bool, max_names: int) -> bool:
        """Remember a change to tell of; return whether it is the first since ``take``."""
        if len(self._changed) < max_names or user in self._changed:
            self._changed.setdefault(user, was_in)
        else:
            self._crowd = True
        first, self._due = not self._due, True
        return first

    def take(self, max_names: int) -> Change | None:
        """Return what has changed since the last ``take``, or None if nothing has in the end.

        Args:
            max_names: with more users in, or more changes, than this the count stands alone.
        """
        changed, self._changed = self._changed, {}
        crowd, self._crowd = self._crowd, False
        self._due = False
        joined = tuple(u for u, was_in in changed.items() if not was_in and u in self._users)
        left = tuple(u for u, was_in in changed.items() if was_in and u not in self._users)
        if not (joined or left or crowd):
            return None
        if crowd or self.count > max_names:
            return Change(self.count, (), ())
        return Change(self.count, joined, left)


TopicT = TypeVar("TopicT")


class Announcer(Generic[TopicT]):
    """Calls back for each scheduled topic one interval later; sleeps while none is scheduled.

    Args:
        interval: seconds from a topic's first change to its announcement.
        announce: called with the topic; doesn't wait and doesn't raise.
    """

    def __init__(self, interval: float, announce: Callable[[TopicT], None]) -> None:
        self._interval = interval
        self._announce = announce
        self._due: deque[tuple[float, TopicT]] = deque()
        self._waker = Waker()

    def schedule(self, topic: TopicT) -> None:
        """Announce a topic one interval from now; the caller schedules it once at a time."""
        self._due.append((trio.current_time() + self._interval, topic))
        self._waker.wake()

    async def run(self) -> None:
        """Announce until cancelled; what is scheduled then stays so."""
        while True:
            while not self._due:
                await self._waker.wait()
            await trio.sleep_until(self._due[0][0])
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                self._announce(self._due.popleft()[1])
