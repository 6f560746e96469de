"""Notifications: a stream for each user, and shared topics.

In: upgrades, the commands of ``schemas.NotificationCommand``, and ``notify()``. Out: the frames of
the wire page. The rule: a notification is in the store before anybody hears of it, so being away
costs a user time and nothing else.
"""

import functools
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, Unpack, runtime_checkable
from weakref import WeakValueDictionary

import attrs
import msgspec
import trio
from attrs.validators import ge, instance_of

from trio_gateway.apps.door import App, AppOptions
from trio_gateway.apps.identity import (
    Action,
    Identity,
)
from trio_gateway.apps.notices import address, count_unread, encode, to_json, unread
from trio_gateway.apps.schemas import (
    List,
    NotificationCommand,
    Ping,
    Read,
    Subscribe,
    Unsubscribe,
    decode_notification,
    parse_position,
    position_of,
)
from trio_gateway.apps.session import (
    SERVER,
    ConnectionLike,
    Refused,
    Session,
    newest_that_fit,
    timestamp,
)
from trio_gateway.connection.frames import text_frame
from trio_gateway.errors import CloseCode, StoreUnavailable
from trio_gateway.hub.broker import Page, Publication
from trio_gateway.hub.hub import (
    Greet,
    Hub,
    Joined,
    Rejoin,
    Subscriber,
    disconnect_stale,
    shared,
)
from trio_gateway.hub.positions import Position
from trio_gateway.wire import (
    Id,
    Problem,
    TextLimits,
    check_key,
    check_text,
    encode_data,
    reply,
)

_count = attrs.validators.and_(instance_of(int), ge(1))


@attrs.frozen(kw_only=True)
class NotificationSettings:
    """What one notification client may take.

    Attributes:
        max_topics: shared topics subscribed at once by one connection.
        max_page: notifications in one answer, listed or recovered.
        max_page_bytes: the same in bytes; at least one is always given.
        texts: how long the parts of a notification may be.
    """

    max_topics: int = attrs.field(default=100, validator=_count)
    max_page: int = attrs.field(default=256, validator=_count)
    max_page_bytes: int = attrs.field(default=256 * 1024, validator=_count)
    texts: TextLimits = attrs.field(factory=TextLimits)


@runtime_checkable
class _Named(Protocol):
    @property
    def id(self) -> str: ...


class NotificationApp(App[Position | None]):
    """The notifications of one gateway.

    Arguments:
        hub: carries the streams, as topics ``user:NAME`` and ``topic:NAME``; this app becomes
            their encoder.
        settings: what one client may take.
        options: as for every ``App``.
    """

    def __init__(
        self,
        hub: Hub,
        settings: NotificationSettings | None = None,
        **options: Unpack[AppOptions],
    ) -> None:
        super().__init__(hub, **options)
        self.settings = settings or NotificationSettings()
        self._turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        page = self.settings.max_page
        hub.encode_with("user", encode, rejoin=Rejoin(self._welcome_again, limit=page))
        hub.encode_with("topic", encode, rejoin=Rejoin(self._greet_again, limit=page))

    def opening(self, query: Mapping[str, str]) -> Position | None:
        """Return the position that ``?since`` names."""
        return parse_position(query["since"]) if "since" in query else None

    def wanted(self, identity: Identity, opening: Position | None) -> Iterable[tuple[Action, str]]:
        """The notifications, and the user's own stream."""
        return (Action.CONNECT, "notifications"), (Action.SUBSCRIBE, f"user:{identity.user}")

    async def begin(
        self, connection: ConnectionLike, identity: Identity, opening: Position | None
    ) -> "NotificationSession | None":
        """Begin the user's stream, or close where the store is down."""
        session = NotificationSession(self, connection, identity)
        if await session.attempt(session.open(opening)):
            return session
        # Without the store there is neither a welcome nor a stream: come back later.
        await connection.aclose(CloseCode.TRY_AGAIN_LATER, "store unavailable")
        return None

    async def notify(
        self,
        *,
        to: str | None = None,
        topic: str | None = None,
        title: str,
        body: str = "",
        data: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Position:
        """Store a notification and send it to whoever is connected; return where it is.

        Arguments:
            to: the user, or
            topic: the shared topic, that it is for; exactly one of the two.
            title: one line.
            body: more text.
            data: JSON for the client's program.
            key: makes a retry safe: for the same stream and key the first position is returned
                and nothing is stored again.

        Raises InvalidField, or StoreUnavailable: then nothing was acknowledged. Cancelled, it may
        or may not be stored: try again with the same key.
        """
        name = address(to, topic)
        texts = self.settings.texts
        check_text("title", title, texts.max_title_bytes)
        check_text("body", body, texts.max_body_bytes, may_be_empty=True)
        check_key(key)
        payload = {
            "title": title,
            "body": body,
            "data": msgspec.Raw(encode_data(data or {}, texts.max_data_bytes)),
            "time": timestamp(self._clock()),
        }
        return await self.hub.publish(name, msgspec.json.encode(payload), key=key)

    def turn(self, user: str) -> trio.Lock:
        """Return what one connection of a user holds at a time while it counts and tells."""
        return self._turns.setdefault(user, trio.Lock())

    def encode_missed(self, publications: Sequence[Publication]) -> tuple[bytes, bool]:
        """Return the frames of what fits of a shared topic, and whether all did."""
        missed, cut = newest_that_fit(publications, to_json, self.settings.max_page_bytes)
        return b"".join([text_frame(item) for item in missed]), not cut

    @asynccontextmanager
    async def _welcome_again(self, topic: str) -> AsyncGenerator[Greet, None]:
        """Tell who stays in a user's stream through a gap as if they came back."""
        user = topic.partition(":")[2]
        greeted: list[Subscriber] = []
        async with self.turn(user):
            kept = await self.hub.history(topic, limit=0)
            cursor = await self.hub.cursor(topic, user)

            def greet(subscriber: Subscriber, joined: Joined) -> list[bytes]:
                greeted.append(subscriber)
                name = subscriber.id if isinstance(subscriber, _Named) else ""
                return self.welcome(user, name, kept, cursor, joined, since=True)

            try:
                yield greet
                now = await self.hub.cursor(topic, user)
                later = await self.hub.history(topic, limit=0)
            except StoreUnavailable:
                # What they were told is unread may be wrong, and nothing else would put it right.
                for subscriber in greeted:
                    disconnect_stale(topic, subscriber)
                raise
            if now != cursor or later.first != kept.first:
                self.hub.broadcast(topic, text_frame(unread(later, now)))

    def welcome(
        self,
        user: str,
        connection: str,
        kept: Page,
        cursor: int,
        joined: Joined,
        *,
        since: bool,
    ) -> list[bytes]:
        """Return the frames that begin a user's stream, on a new connection or an old one.

        Arguments:
            user: whose stream it is.
            connection: the id of whose frames they are.
            kept: a page of the stream; what it had of older ones counts.
            cursor: what was read of it.
            joined: where it begins, with what was missed.
            since: whether that was asked for.
        """
        missed, recovered = [], True
        if since:
            to_mine = functools.partial(to_json, cursor=cursor)
            items, cut = newest_that_fit(joined.publications, to_mine, self.settings.max_page_bytes)
            missed = [text_frame(item) for item in items]
            recovered = joined.recovered and not cut
        now = attrs.evolve(kept, position=joined.position)
        welcome = reply(
            "welcome",
            None,
            user=user,
            connection=connection,
            unread=count_unread(now, cursor),
            position=joined.position,
            recovered=recovered,
            heartbeat=self.heartbeat,
            server=SERVER,
        )
        return [text_frame(welcome), *missed]

    @asynccontextmanager
    async def _greet_again(self, topic: str) -> AsyncGenerator[Greet, None]:
        """Tell who stays in a shared topic through a gap with a ``subscribed`` unasked for."""
        name = topic.partition(":")[2]
        yield shared(functools.partial(self.subscribed, name, None, since=True))

    def subscribed(self, topic: str, id: Id | None, joined: Joined, *, since: bool) -> list[bytes]:
        """Return the frames that begin a shared topic, with what was missed if that was asked."""
        missed, recovered = b"", True
        if since:
            missed, whole = joined.once(self.encode_missed)
            recovered = joined.recovered and whole
        position = joined.position
        answer = reply("subscribed", id, topic=topic, position=position, recovered=recovered)
        return [text_frame(answer), missed]


class NotificationSession(Session[NotificationCommand]):
    """One connection of the notifications.

    Attributes:
        topic: the user's own stream.
        topics: the shared ones besides.
    """

    def __init__(
        self, app: NotificationApp, connection: ConnectionLike, identity: Identity
    ) -> None:
        super().__init__(connection, identity, app.authorize)
        self.app = app
        self.limits = app.limits
        self.hub = app.hub
        self.topic = f"user:{self.user}"
        self.topics: set[str] = set()

    def decode(self, text: str) -> NotificationCommand | Problem:
        """Read a text frame."""
        return decode_notification(text, self.app.settings.texts)

    async def open(self, since: Position | None) -> None:
        """Subscribe to the user's stream: first the welcome, then what was missed."""
        async with self.app.turn(self.user):
            kept = await self.hub.history(self.topic, limit=0)
            cursor = await self.hub.cursor(self.topic, self.user)

            def greet(joined: Joined) -> list[bytes]:
                asked = since is not None
                return self.app.welcome(
                    self.user, self.connection.id, kept, cursor, joined, since=asked
                )

            joined = await self.hub.subscribe(
                self.topic,
                self.connection,
                user=self.user,
                since=since,
                limit=0 if since is None else self.app.settings.max_page,
                greet=greet,
            )
            # Meanwhile more may have come, for which older ones went, or some been read elsewhere.
            now = await self.hub.cursor(self.topic, self.user)
            if joined.position != kept.position:
                later = await self.hub.history(self.topic, limit=0)
            else:
                later = kept
            if now != cursor or later.first != kept.first:
                await self.send(unread(later, now))

    async def obey(self, command: NotificationCommand) -> None:
        """Do what a command says and reply."""
        match command:
            case Read():
                await self._read(command)
            case List():
                await self._list(command)
            case Subscribe():
                await self._subscribe(command)
            case Unsubscribe(topic=topic):
                await self.hub.unsubscribe(f"topic:{topic}", self.connection)
                self.topics.discard(topic)
                await self.send(reply("unsubscribed", command.id, topic=topic))
            case Ping():
                await self.send(reply("pong", command.id))

    async def _read(self, command: Read) -> None:
        # The broker moves a cursor no further than the latest: what comes next arrives unread.
        async with self.app.turn(self.user):
            cursor = await self.hub.advance(self.topic, self.user, command.offset)
            kept = await self.hub.history(self.topic, limit=0)
            frame = text_frame(unread(kept, cursor))
            if command.id is None:
                self.hub.broadcast(self.topic, frame)
            else:
                self.hub.broadcast(self.topic, frame, exclude=self.connection)
                await self.send(unread(kept, cursor, command))

    async def _list(self, command: List) -> None:
        settings = self.app.settings
        limit = min(command.limit or settings.max_page, settings.max_page)
        page = await self.hub.history(self.topic, before=command.before, limit=limit)
        cursor = await self.hub.cursor(self.topic, self.user)
        listed, cut = newest_that_fit(
            page.publications, functools.partial(to_json, cursor=cursor), settings.max_page_bytes
        )
        notifications = [msgspec.Raw(item) for item in listed]
        more = page.more or cut
        await self.send(reply("list", command.id, notifications=notifications, more=more))

    async def _subscribe(self, command: Subscribe) -> None:
        topic, settings = command.topic, self.app.settings
        await self.check(Action.SUBSCRIBE, f"topic:{topic}")
        if topic not in self.topics and len(self.topics) >= settings.max_topics:
            raise Refused(
                "too_many_topics", f"at most {settings.max_topics} topics; unsubscribe from one"
            )
        if not self.hub.has_room_for(f"topic:{topic}"):
            raise Refused("no_more_topics", "no topic can be opened now; try again later")
        self.check_join()
        # The hub leaves a topic before joining it again; if the store fails in between, it is left.
        self.topics.discard(topic)
        await self.hub.subscribe(
            f"topic:{topic}",
            self.connection,
            user=self.user,
            since=position_of(command.since),
            limit=0 if command.since is None else settings.max_page,
            greet=functools.partial(
                self.app.subscribed, topic, command.id, since=command.since is not None
            ),
        )
        self.topics.add(topic)
