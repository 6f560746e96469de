"""The hubs of the other nodes, where the broker has any: who is in there, and what they send.

In: users who come and go here; what a ``Cluster`` tells of elsewhere. Out: rosters that count every
user of every node once, frames offered here, users disconnected here. The rule: a node speaks of a
user when the first of their connections comes and when the last has gone, and of nothing else.
"""

import logging
from collections.abc import Callable, Collection

import msgspec

from trio_gateway.hub.broker import Cluster
from trio_gateway.hub.topics import Topic

_log = logging.getLogger(__name__)


class _Order(msgspec.Struct, tag_field="do", tag="disconnect"):
    """What a node asks of all: to disconnect a user."""

    user: str
    code: int
    reason: str


class Neighbours:
    """This hub among the others.

    Args:
        cluster: carries what they say.
        topics: of this hub, by name.
        changed: called with a topic, a user, and whether they were in, when a roster has changed.
        offer: offers a frame to a topic's subscribers here.
        disconnect: disconnects a user here.
    """

    def __init__(
        self,
        cluster: Cluster,
        topics: dict[str, Topic],
        *,
        changed: Callable[[Topic, str, bool], None],
        offer: Callable[[str, bytes], None],
        disconnect: Callable[[str, int, str], int],
    ) -> None:
        self.cluster = cluster
        self._topics = topics
        self._changed = changed
        self._offer = offer
        self._disconnect = disconnect
        self._here: dict[tuple[str, str], int] = {}
        cluster.meet(self)

    def arrive(self, topic: str, user: str) -> None:
        """Count a connection of a user here."""
        count = self._here.get((topic, user), 0)
        self._here[topic, user] = count + 1
        if not count:
            self.cluster.arrived(topic, user)

    def depart(self, topic: str, user: str) -> None:
        """Count one less."""
        count = self._here[topic, user] - 1
        if count:
            self._here[topic, user] = count
        else:
            del self._here[topic, user]
            self.cluster.departed(topic, user)

    async def order_disconnect(self, user: str, code: int, reason: str) -> None:
        """Have the other nodes disconnect a user; raises StoreUnavailable."""
        await self.cluster.control(msgspec.json.encode(_Order(user, code, reason)))

    def others(self, topic: str, joined: Collection[str], left: Collection[str]) -> None:
        """See ``Neighbour``."""
        found = self._topics.get(topic)
        if found is None:
            return
        for user in joined:
            if found.roster.arrive(user):
                self._changed(found, user, False)
        for user in left:
            if user in found.roster and found.roster.depart(user):
                self._changed(found, user, True)

    def ephemeral(self, topic: str, frame: bytes) -> None:
        """See ``Neighbour``."""
        self._offer(topic, frame)

    def controlled(self, message: bytes) -> None:
        """See ``Neighbour``; an order of a newer version is none of ours."""
        try:
            order = msgspec.json.decode(message, type=_Order)
        except msgspec.DecodeError:
            _log.warning("another node asks for what this one does not know: %.80r", message)
            return
        self._disconnect(order.user, order.code, order.reason)
