"""Notifications: a stream for each user, and shared topics.

In: upgrades, the commands of ``schemas.NotificationCommand``, and ``notify()``. Out: the frames of
the wire page. The rule: a notification is in the store before anybody hears of it, so being away
costs a user time and nothing else.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec
from attrs.validators import ge, instance_of
from trio_websocket import ConnectionClosed

from trio_gateway.apps.identity import Authenticate, anyone
from trio_gateway.apps.schemas import (
    List,
    NotificationCommand,
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
    UpgradeLike,
    newest_that_fit,
    refuse,
    seconds,
    timestamp,
)
from trio_gateway.connection.frames import text_frame
from trio_gateway.errors import CloseCode
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.hub.broker import Publication
from trio_gateway.hub.hub import Hub, Joined
from trio_gateway.hub.positions import Position
from trio_gateway.wire import (
    MAX_USER,
    InvalidField,
    Problem,
    TextLimits,
    check_key,
    check_name,
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


class NotificationApp:
    """The notifications of one gateway.

    Arguments:
        hub: carries the streams, as topics ``user:NAME`` and ``topic:NAME``; this app becomes
            their encoder.
        settings: what one client may take.
        authenticate: who an upgrade is for.
        heartbeat: the seconds that ``welcome`` names; ``math.inf`` is told as 0, for none.
        clock: seconds since 1970, for the time of a notification.
    """

    def __init__(
        self,
        hub: Hub,
        settings: NotificationSettings | None = None,
        *,
        authenticate: Authenticate = anyone,
        heartbeat: float = 25.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.hub = hub
        self.settings = settings or NotificationSettings()
        self.heartbeat = seconds(heartbeat)
        self._authenticate = authenticate
        self._clock = clock
        for kind in ("user", "topic"):
            hub.encode_with(kind, encode)

    async def handle(self, upgrade: UpgradeLike) -> None:
        """Serve one client until its connection ends: the handler to give to a router.

        Cancelled, it unsubscribes at once and leaves the closing to the gateway.
        """
        identity = await self._authenticate(upgrade)
        if isinstance(identity, Refusal):
            await refuse(upgrade, identity)
            return
        try:
            since = parse_position(upgrade.query["since"]) if "since" in upgrade.query else None
        except InvalidField as error:
            problem = Refusal(400, "invalid_field", f"the query parameter {error}")
            await refuse(upgrade, problem)
            return
        connection = await upgrade.accept()
        session = NotificationSession(self, connection, identity.user)
        try:
            if await session.attempt(session.open(since)):
                await session.run()
            else:
                # Without the store there is neither a welcome nor a stream: come back later.
                await connection.aclose(CloseCode.TRY_AGAIN_LATER, "store unavailable")
        except ConnectionClosed:
            pass  # in the middle of a reply: an end like any other
        finally:
            await self.hub.leave_all(connection)

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


class NotificationSession(Session[NotificationCommand]):
    """One connection of the notifications.

    Attributes:
        topic: the user's own stream.
        topics: the shared ones besides.
    """

    def __init__(self, app: NotificationApp, connection: ConnectionLike, user: str) -> None:
        super().__init__(connection, user)
        self.app = app
        self.hub = app.hub
        self.topic = f"user:{user}"
        self.topics: set[str] = set()

    def decode(self, text: str) -> NotificationCommand | Problem:
        """Read a text frame."""
        return decode_notification(text, self.app.settings.texts)

    async def open(self, since: Position | None) -> None:
        """Subscribe to the user's stream: first the welcome, then what was missed."""
        cursor = await self.hub.cursor(self.topic, self.user)
        joined = await self.hub.subscribe(
            self.topic,
            self.connection,
            user=self.user,
            since=since,
            limit=0 if since is None else self.app.settings.max_page,
            greet=functools.partial(self._welcome, since, cursor),
        )
        # Another connection of this user may have read some before this one could be told.
        now = await self.hub.cursor(self.topic, self.user)
        if now != cursor:
            await self.send(unread(joined.position.offset, now))

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

    async def _read(self, command: Read) -> None:
        # The broker moves a cursor no further than the latest: what comes next arrives unread.
        cursor = await self.hub.advance(self.topic, self.user, command.offset)
        latest = (await self.hub.history(self.topic, limit=0)).position.offset
        frame = text_frame(unread(latest, cursor))
        if command.id is None:
            self.hub.broadcast(self.topic, frame)
        else:
            self.hub.broadcast(self.topic, frame, exclude=self.connection)
            await self.send(unread(latest, cursor, command))

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
        if topic not in self.topics and len(self.topics) >= settings.max_topics:
            raise Refused(
                "too_many_topics", f"at most {settings.max_topics} topics; unsubscribe from one"
            )
        # The hub leaves a topic before joining it again; if the store fails in between, it is left.
        self.topics.discard(topic)
        await self.hub.subscribe(
            f"topic:{topic}",
            self.connection,
            user=self.user,
            since=position_of(command.since),
            limit=0 if command.since is None else settings.max_page,
            greet=functools.partial(self._subscribed, command),
        )
        self.topics.add(topic)

    def _welcome(self, since: Position | None, cursor: int, joined: Joined) -> list[bytes]:
        missed, recovered = self._missed(since is not None, joined, cursor)
        welcome = reply(
            "welcome",
            None,
            user=self.user,
            connection=self.connection.id,
            unread=max(0, joined.position.offset - cursor),
            position=joined.position,
            recovered=recovered,
            heartbeat=self.app.heartbeat,
            server=SERVER,
        )
        return [text_frame(welcome), *missed]

    def _subscribed(self, command: Subscribe, joined: Joined) -> list[bytes]:
        missed, recovered = self._missed(command.since is not None, joined, 0)
        position = joined.position
        answer = reply(
            "subscribed", command.id, topic=command.topic, position=position, recovered=recovered
        )
        return [text_frame(answer), *missed]

    def _missed(self, asked: bool, joined: Joined, cursor: int) -> tuple[list[bytes], bool]:
        if not asked:
            return [], True
        items, cut = newest_that_fit(
            joined.publications,
            functools.partial(to_json, cursor=cursor),
            self.app.settings.max_page_bytes,
        )
        return [text_frame(item) for item in items], joined.recovered and not cut


def address(to: str | None, topic: str | None) -> str:
    """Return the hub's topic of a user or of a shared one; raises InvalidField unless for one."""
    if to is not None and topic is None:
        check_name("to", to, MAX_USER)
        return f"user:{to}"
    if topic is not None and to is None:
        check_name("topic", topic)
        return f"topic:{topic}"
    raise InvalidField("to", "or topic must be given, and not both")


def to_json(publication: Publication, cursor: int = 0) -> bytes:
    """Return the JSON of a notification for a reader who has read up to ``cursor``."""
    kind, _, name = publication.topic.partition(":")
    offset = publication.position.offset
    # Offsets of different streams mean nothing to each other, so a shared one says whose it is.
    shared = b'"topic":%b,' % msgspec.json.encode(name) if kind == "topic" else b""
    read = b"true" if offset <= cursor else b"false"
    body = publication.payload[1:-1]
    return b'{"type":"notification",%b"offset":%d,%b,"read":%b}' % (shared, offset, body, read)


def encode(publication: Publication) -> bytes:
    """Return the frame of a new notification, which nobody has read."""
    return text_frame(to_json(publication))


def unread(latest: int, cursor: int, command: Read | None = None) -> bytes:
    """Return the JSON of ``unread``: how many, and up to which offset all are read."""
    id = None if command is None else command.id
    return reply("unread", id, count=max(0, latest - cursor), offset=cursor)
