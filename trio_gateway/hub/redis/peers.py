"""Who is in a topic at which node, kept by messages, snapshots and leases.

In: users who come and go here, and what the other nodes say of theirs. Out: to the hub, distinct
users of the other nodes who came or went. The rules: of each topic there is one count of changes,
so that whoever missed one knows it and takes a snapshot; a node that renews no lease has ended, and
everyone forgets its users; one that was forgotten by mistake says again who is in.
"""

from collections.abc import Awaitable, Callable, Mapping

import attrs
import msgspec
import trio

from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Neighbour
from trio_gateway.hub.redis.scripts import PRESENT, RENEW
from trio_gateway.hub.redis.settings import Names, RedisSettings
from trio_gateway.hub.redis.wire import Wires
from trio_gateway.hub.waker import Waker

_TELL_AT_ONCE = 32
_RETRY_SECONDS = 0.5
_RENEWALS = 3  # in a lease
#: What is said of a topic is said again before this long, and kept for this long.
_AGAIN_SECONDS = 6 * 3600.0
_KEPT_SECONDS = 86_400

_nobody: tuple[list[str], list[str]] = ([], [])
_decoder = msgspec.msgpack.Decoder(tuple[list[str], list[str]])


@attrs.define(eq=False)
class _Mine:
    """Who is in a topic here, and what the others were told; None where that is unknown."""

    users: set[str] = attrs.Factory(set)
    told: set[str] | None = None


@attrs.define(eq=False)
class _View:
    """Who is in a topic at the other nodes.

    Attributes:
        version: the number of the last change taken in; None while a snapshot is needed.
        heard: the number of the last change heard of.
        nodes: the users of each.
        counts: at how many nodes each user is.
    """

    version: int | None = None
    heard: int = 0
    nodes: dict[str, set[str]] = attrs.Factory(dict)
    counts: dict[str, int] = attrs.Factory(dict)


class Peers:
    """The other nodes.

    Args:
        node: the name of this one.
        names: of keys and channels.
        settings: see there.
        wires: where scripts are run.
        look: takes a snapshot of a topic, which ends in ``open``.

    Attributes:
        neighbour: told of the other nodes' users; without one nobody is told anything.
        alive: the nodes, this one included, at the last renewal.
    """

    def __init__(
        self,
        node: str,
        names: Names,
        settings: RedisSettings,
        wires: Wires,
        look: Callable[[str], Awaitable[None]],
    ) -> None:
        self.neighbour: Neighbour | None = None
        self.alive: frozenset[str] = frozenset({node})
        self._node = node
        self._names = names
        self._settings = settings
        self._wires = wires
        self._look = look
        self._mine: dict[str, _Mine] = {}
        self._dirty: dict[str, _Mine] = {}
        self._views: dict[str, _View] = {}
        self._missed: dict[str, _View] = {}
        self._waker = Waker()
        self._looker = Waker()
        self._renewed = trio.Event()
        # Whoever else was cut off too has until then to renew its lease.
        self._judge_from = 0.0

    def arrived(self, topic: str, user: str) -> None:
        """Tell the others, soon."""
        mine = self._mine.get(topic)
        if mine is None:
            mine = self._mine[topic] = _Mine(told=set())
        mine.users.add(user)
        self._soil(topic, mine)

    def departed(self, topic: str, user: str) -> None:
        """Tell the others, soon."""
        mine = self._mine.get(topic)
        if mine is not None:  # else this node has said that it ends
            mine.users.discard(user)
            self._soil(topic, mine)

    def back(self) -> None:
        """There is a connection again: give the others time to be back too."""
        self._judge_from = trio.current_time() + self._settings.lease
        self._renewed.set()

    def begin(self, topic: str) -> None:
        """Remember what is heard of a topic from now on: a snapshot is on its way."""
        self._views.setdefault(topic, _View()).heard = 0

    def open(self, topic: str, fields: Mapping[str, str]) -> bool:
        """Take a snapshot in; return false if it is older than a message."""
        view = self._views.setdefault(topic, _View())
        version = int(fields.get("v", 0))
        if version < view.heard:
            return False
        nodes: dict[str, set[str]] = {}
        for field in fields:
            node, space, user = field.partition(" ")
            if space and node != self._node:
                nodes.setdefault(node, set()).add(user)
        view.version = version
        self._missed.pop(topic, None)
        self._set(topic, view, {**dict.fromkeys(view.nodes, frozenset()), **nodes})
        return True

    def close(self, topic: str) -> None:
        """Follow a topic no more."""
        view = self._views.pop(topic, None)
        self._missed.pop(topic, None)
        if view is not None:
            self._set(topic, view, dict.fromkeys(view.nodes, frozenset()))

    def hear(self, topic: str, head: str, packed: bytes) -> None:
        """Take in a message about a topic."""
        text, node, mode = head.split(" ")
        version = int(text)
        if node == self._node and mode == "x" and topic in self._mine:
            self._mine[topic].told = None
            self._soil(topic, self._mine[topic])
        view = self._views.get(topic)
        if view is None:
            return
        view.heard = max(view.heard, version)
        if view.version is None or version <= view.version:
            return
        if version != view.version + 1 and view.version:
            view.version = None
            self._missed[topic] = view
            self._looker.wake()
            return
        view.version = version
        if node == self._node:
            return
        came, went = _decoder.decode(packed)
        users = view.nodes.get(node, set())
        now = (users | set(came)) - set(went) if mode == "+" else set(came)
        self._set(topic, view, {node: now})

    async def members(self, fields: Mapping[str, str], limit: int) -> tuple[int, list[str]]:
        """Return how many distinct users a snapshot has at nodes that are alive, and names."""
        await self._renew()
        found: dict[str, None] = {}
        for field in fields:
            node, space, user = field.partition(" ")
            if space and (node in self.alive or trio.current_time() < self._judge_from):
                found[user] = None
        return len(found), list(found)[:limit]

    async def run(self) -> None:
        """Renew the lease, tell, and look, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_renewing)
            nursery.start_soon(self._keep_telling)
            nursery.start_soon(self._keep_looking)

    async def leave(self) -> None:
        """Say that this node ends; cancelled, its lease does."""
        try:
            for topic, mine in list(self._mine.items()):
                mine.users.clear()
                await self._tell(topic, mine)
            await self._wires.call(RENEW, [self._names.nodes], self._node, 0)
        except StoreUnavailable:
            pass

    def _soil(self, topic: str, mine: _Mine) -> None:
        self._dirty[topic] = mine
        self._waker.wake()

    def _say_all_again(self) -> None:
        for topic, mine in self._mine.items():
            mine.told = None
            self._soil(topic, mine)

    def _set(self, topic: str, view: _View, nodes: Mapping[str, set[str] | frozenset[str]]) -> None:
        """Set who is in at some nodes, and tell the hub what that changes."""
        changed: dict[str, int] = {}
        for node, users in nodes.items():
            before = view.nodes.pop(node, set())
            if users:
                view.nodes[node] = set(users)
            for user in users - before:
                changed[user] = changed.get(user, 0) + 1
            for user in before - users:
                changed[user] = changed.get(user, 0) - 1
        came: list[str] = []
        went: list[str] = []
        for user, change in changed.items():
            before_, now = view.counts.get(user, 0), view.counts.get(user, 0) + change
            if now:
                view.counts[user] = now
            else:
                view.counts.pop(user, None)
            if now and not before_:
                came.append(user)
            elif before_ and not now:
                went.append(user)
        if (came or went) and self.neighbour is not None:
            self.neighbour.others(topic, came, went)

    async def _keep_renewing(self) -> None:
        again = trio.current_time() + _AGAIN_SECONDS
        while True:
            try:
                known = await self._renew()
            except StoreUnavailable:
                pass
            else:
                now = trio.current_time()
                if not known:
                    # New here, or all was lost: the others may have to say so as well.
                    self._judge_from = now + self._settings.lease
                if not known or now >= again:
                    again = now + _AGAIN_SECONDS
                    self._say_all_again()
                elif now >= self._judge_from:
                    await self._forget_the_dead()
            self._renewed = trio.Event()
            with trio.move_on_after(self._settings.lease / _RENEWALS):
                await self._renewed.wait()

    async def _renew(self) -> bool:
        lease = int(self._settings.lease * 1000)
        known, *nodes = await self._wires.call(RENEW, [self._names.nodes], self._node, lease)
        self.alive = frozenset(node.decode() for node in nodes)
        return bool(known)

    async def _forget_the_dead(self) -> None:
        for topic, view in list(self._views.items()):
            for node in [node for node in view.nodes if node not in self.alive]:
                self._set(topic, view, {node: frozenset()})
                try:
                    await self._present(topic, node, "x", _nobody)
                except StoreUnavailable:
                    return  # it stays in the snapshots, and is forgotten again

    async def _keep_telling(self) -> None:
        while True:
            while not self._dirty:
                await self._waker.wait()
            await trio.sleep(self._settings.presence_pause)
            dirty, self._dirty = self._dirty, {}
            failed = False
            room = trio.CapacityLimiter(_TELL_AT_ONCE)

            async def tell(topic: str, mine: _Mine, room: trio.CapacityLimiter = room) -> None:
                nonlocal failed
                async with room:
                    try:
                        await self._tell(topic, mine)
                    except StoreUnavailable:
                        mine.told = None
                        self._dirty[topic] = mine
                        failed = True

            async with trio.open_nursery() as nursery:
                for topic, mine in dirty.items():
                    nursery.start_soon(tell, topic, mine)
            if failed:
                await trio.sleep(_RETRY_SECONDS)

    async def _tell(self, topic: str, mine: _Mine) -> None:
        users = set(mine.users)
        if mine.told is None:
            mode, came, went = "=", sorted(users), list[str]()
        else:
            mode, came, went = "+", sorted(users - mine.told), sorted(mine.told - users)
        if mode == "=" or came or went:
            mode = "x" if mode == "=" and not users else mode
            await self._present(topic, self._node, mode, (came, went))
        mine.told = users
        if not mine.users and not users and self._mine.get(topic) is mine:
            del self._mine[topic]

    async def _present(
        self, topic: str, node: str, mode: str, users: tuple[list[str], list[str]]
    ) -> None:
        await self._wires.call(
            PRESENT,
            self._names.keys(topic, "here"),
            self._names.channel(topic),
            node,
            mode,
            msgspec.msgpack.encode(users),
            _KEPT_SECONDS,
        )

    async def _keep_looking(self) -> None:
        while True:
            while not self._missed:
                await self._looker.wait()
            topic = next(iter(self._missed))
            try:
                await self._look(topic)
            except StoreUnavailable:
                await trio.sleep(_RETRY_SECONDS)
            else:
                self._missed.pop(topic, None)
