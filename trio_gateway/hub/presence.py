"""Who is in a topic, and telling those who asked, at most once a second.

In: users arriving and departing, one for each of their connections. Out: counts, names, and one
net change per topic and interval. The rule: whoever applies each change to what it was told at
first knows who is in, or in a crowd how many, because presence is O(N²) otherwise; and whoever came
and went within an interval is not mentioned, unless somebody was told of it.
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

    def __call__(self, topic: str, change: "Change", /) -> bytes:
        """Return a complete WebSocket frame that tells a topic's listeners of a change."""
        ...


@attrs.frozen
class Change:
    """The net change of a topic in one interval.

    Who applies each change to what it knew, knows who is in: a name that came is added, one that
    went is removed, if they weren't so before; ``members`` take the place of all that was known;
    and after a change that has no names, nothing is known but the count.

    Attributes:
        count: of distinct users now.
        joined: who came since the last change, in order.
        left: who went.
        members: all who are in, where listeners may not know them; else None.
        named: false in a crowd, where the count stands alone.
    """

    count: int
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    members: tuple[str, ...] | None = None
    named: bool = True


@attrs.define(eq=False)
class Roster:
    """The distinct users of a topic, with the number of connections of each."""

    _users: dict[str, int] = attrs.Factory(dict)
    # Users who came or went since the last change was taken, and whether they were in before;
    # None if somebody was told who is in since, and has to be told of them in any case.
    _changed: dict[str, bool | None] = attrs.Factory(dict)
    # Whether there may be listeners who don't know the names.
    _unknown: bool = False
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
            self._unknown = True
        first, self._due = not self._due, True
        return first

    def told(self, max_names: int) -> None:
        """Remember that somebody is told who is in now, in the middle of what is noted.

        Args:
            max_names: told at most.
        """
        if self._changed:
            self._changed = dict.fromkeys(self._changed)
        if self.count > max_names:
            self._unknown = True

    def forget(self) -> bool:
        """Tell everything with the next change; return whether it is the first, as ``note``."""
        self._unknown = True
        first, self._due = not self._due, True
        return first

    def take(self, max_names: int) -> Change | None:
        """Return what has changed since the last ``take``, or None if nothing has in the end.

        Args:
            max_names: with more users in than this the count stands alone.
        """
        changed, self._changed = self._changed, {}
        self._due = False
        users = self._users
        joined = tuple(u for u, was_in in changed.items() if was_in is not True and u in users)
        left = tuple(u for u, was_in in changed.items() if was_in is not False and u not in users)
        if not (joined or left or self._unknown):
            return None
        if self.count > max_names:
            self._unknown = True
            return Change(self.count, named=False)
        members = tuple(users) if self._unknown else None
        self._unknown = False
        return Change(self.count, joined, left, members)


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
