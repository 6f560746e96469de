"""The chat: rooms, messages, history, who is there.

In: upgrades and the commands of ``schemas.ChatCommand``. Out: the frames of the wire page. The
rule: a message is encoded once, when it is published; the frame that everybody gets and the entries
of every history are spliced from those bytes.
"""

import functools
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Unpack

import attrs
import msgspec
from attrs.validators import ge, instance_of

from trio_gateway.apps.door import App, AppOptions
from trio_gateway.apps.identity import (
    Action,
    Identity,
)
from trio_gateway.apps.schemas import (
    At,
    ChatCommand,
    History,
    Join,
    Leave,
    Members,
    Message,
    Ping,
    Typing,
    decode_chat,
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
from trio_gateway.hub.broker import Publication, Receipt
from trio_gateway.hub.hub import Greet, Hub, Joined, Rejoin, shared
from trio_gateway.hub.positions import Position
from trio_gateway.hub.presence import Change
from trio_gateway.wire import (
    MAX_USER,
    Id,
    Problem,
    TextLimits,
    check_key,
    check_name,
    check_text,
    reply,
)

KIND = "chat"
_count = attrs.validators.and_(instance_of(int), ge(1))


def _is_room(_instance: Any, attribute: "attrs.Attribute[str]", value: str) -> None:
    check_name(attribute.name, value)


@attrs.frozen(kw_only=True)
class ChatSettings:
    """What one chat client may take.

    Attributes:
        default_room: joined on connect when the client names none.
        max_rooms: joined at once by one connection.
        max_page: messages in one answer, of history or of recovery.
        max_page_bytes: the same in bytes; at least one message is always given.
        max_members: names in one answer; the count is always exact.
        texts: how long a message may be.
    """

    default_room: str = attrs.field(default="lobby", validator=_is_room)
    max_rooms: int = attrs.field(default=100, validator=_count)
    max_page: int = attrs.field(default=256, validator=_count)
    max_page_bytes: int = attrs.field(default=256 * 1024, validator=_count)
    max_members: int = attrs.field(default=100, validator=_count)
    texts: TextLimits = attrs.field(factory=TextLimits)


class ChatApp(App[Join]):
    """The chat of one gateway.

    Arguments:
        hub: carries the rooms, as topics ``chat:ROOM``; this app becomes their encoder.
        settings: what one client may take.
        options: as for every ``App``.
    """

    def __init__(
        self, hub: Hub, settings: ChatSettings | None = None, **options: Unpack[AppOptions]
    ) -> None:
        super().__init__(hub, **options)
        self.settings = settings or ChatSettings()
        rejoin = Rejoin(self._greet_again, limit=self.settings.max_page)
        hub.encode_with(KIND, encode, presence=encode_presence, rejoin=rejoin)

    def wanted(self, identity: Identity, opening: Join) -> Iterable[tuple[Action, str]]:
        """The chat, and the room."""
        return (Action.CONNECT, KIND), (Action.SUBSCRIBE, topic_of(opening.room))

    async def begin(
        self, connection: ConnectionLike, identity: Identity, opening: Join
    ) -> "ChatSession":
        """Join the first room."""
        session = ChatSession(self, connection, identity)
        await session.open(opening)
        return session

    async def publish(self, *, room: str, user: str, text: str, key: str | None = None) -> Position:
        """Store a message and send it to everyone in the room; return where it is.

        Arguments:
            room: need not exist.
            user: who says it.
            text: what is said.
            key: makes a retry safe: for the same user, room and key the first position is
                returned and nothing is stored again.

        Raises InvalidField, or StoreUnavailable: then nothing was acknowledged. Cancelled, the
        message may or may not be stored: try again with the same key.
        """
        check_name("room", room)
        check_name("user", user, MAX_USER)
        check_text("text", text, self.settings.texts.max_text_bytes)
        check_key(key)
        return await self.store(room, user, text, key)

    async def store(self, room: str, user: str, text: str, key: str | None) -> Position:
        """As ``publish``, for fields that are checked already."""
        return await self.hub.publish(
            topic_of(room), self._payload(user, text), key=scoped_key(user, key)
        )

    async def submit(self, room: str, user: str, text: str, key: str | None) -> Position | Receipt:
        """As ``store``, but perhaps return before it is stored; see ``Hub.submit``."""
        return await self.hub.submit(
            topic_of(room), self._payload(user, text), key=scoped_key(user, key)
        )

    def _payload(self, user: str, text: str) -> bytes:
        return msgspec.json.encode({"user": user, "text": text, "time": timestamp(self._clock())})

    async def history(
        self, room: str, *, before: int | None = None, limit: int | None = None
    ) -> dict[str, Any]:
        """Return a page of a room's messages as JSON: the newest ones older than ``before``.

        Returns ``{"room", "messages", "more", "position"}``: the messages oldest first, whether
        older ones are kept, and the room's newest position. Raises InvalidField and
        StoreUnavailable. Changes nothing, so that it can be cancelled at any time.
        """
        check_name("room", room)
        limit = min(limit or self.settings.max_page, self.settings.max_page)
        page = await self.hub.history(topic_of(room), before=before, limit=limit)
        messages, cut = newest_that_fit(page.publications, to_json, self.settings.max_page_bytes)
        return {
            "room": room,
            "messages": [msgspec.Raw(message) for message in messages],
            "more": page.more or cut,
            "position": page.position,
        }

    def members(self, room: str) -> dict[str, Any]:
        """Return ``{"room", "count", "members"}``: the exact count, the names up to a cap.

        Of a room that somebody is in at this node. Raises InvalidField.
        """
        check_name("room", room)
        count, names = self.hub.members(topic_of(room), self.settings.max_members)
        return {"room": room, "count": count, "members": names}

    async def look_up_members(self, room: str) -> dict[str, Any]:
        """As ``members``, of any room.

        Raises InvalidField, and StoreUnavailable: it is not known. Changes nothing, so that it can
        be cancelled at any time.
        """
        check_name("room", room)
        count, names = await self.hub.look_up_members(topic_of(room), self.settings.max_members)
        return {"room": room, "count": count, "members": names}

    def encode_missed(self, publications: Sequence[Publication]) -> tuple[bytes, bool]:
        """Return what fits of the messages as JSON with commas between, and whether all did."""
        missed, cut = newest_that_fit(publications, to_json, self.settings.max_page_bytes)
        return b",".join(missed), not cut

    @asynccontextmanager
    async def _greet_again(self, topic: str) -> AsyncGenerator[Greet, None]:
        """Tell who stays in a room through a gap what was missed, as a ``joined`` unasked for."""
        yield shared(functools.partial(self._joined_again, topic[len(KIND) + 1 :]))

    def _joined_again(self, room: str, joined: Joined) -> list[bytes]:
        missed, whole = joined.once(self.encode_missed)
        return [text_frame(joined_reply(room, None, joined, joined.recovered and whole, missed))]

    def opening(self, query: Mapping[str, str]) -> Join:
        """Return the join that the query string asks for; raises InvalidField."""
        room = query.get("room", self.settings.default_room)
        check_name("room", room)
        opening = Join(room=room, presence=query.get("presence") in ("1", "true"))
        if "since" in query:
            since = parse_position(query["since"])
            opening.since = At(since.epoch, since.offset)
        return opening


class ChatSession(Session[ChatCommand]):
    """One connection of the chat.

    Attributes:
        rooms: those it is in, in the order of joining, and whether it wants their presence.
    """

    def __init__(self, app: ChatApp, connection: ConnectionLike, identity: Identity) -> None:
        super().__init__(connection, identity, app.authorize)
        self.app = app
        self.limits = app.limits
        self.rooms: dict[str, bool] = {}

    def overlaps(self, command: ChatCommand) -> bool:
        """Messages are stored in their order anyway."""
        return isinstance(command, Message)

    def decode(self, text: str) -> ChatCommand | Problem:
        """Read a text frame."""
        return decode_chat(text, self.app.settings.texts)

    async def open(self, opening: Join) -> None:
        """Welcome the client and join its first room; a store that is down is told, not fatal."""
        welcome = reply(
            "welcome",
            None,
            user=self.user,
            connection=self.connection.id,
            room=opening.room,
            heartbeat=self.app.heartbeat,
            server=SERVER,
        )
        await self.send(welcome)
        await self.attempt(self._join(opening))

    async def obey(self, command: ChatCommand) -> None:
        """Do what a command says and reply."""
        match command:
            case Message():
                await self._say(command)
            case Join():
                self.check_join()
                await self._join(command)
            case Leave(room=room):
                await self.app.hub.unsubscribe(topic_of(room), self.connection)
                self.rooms.pop(room, None)
                await self.send(reply("left", command.id, room=room))
            case History(room=room):
                await self.check(Action.READ, topic_of(room))
                page = await self.app.history(room, before=command.before, limit=command.limit)
                await self.send(reply("history", command.id, **page))
            case Members(room=room):
                await self.check(Action.READ, topic_of(room))
                await self._tell_members(command)
            case Typing(room=room):
                self._check_joined(room)
                await self.check(Action.PUBLISH, topic_of(room))
                frame = text_frame(reply("typing", None, room=room, user=self.user))
                self.app.hub.broadcast(topic_of(room), frame, exclude=self.connection)
            case Ping():
                await self.send(reply("pong", command.id))

    async def _say(self, command: Message) -> None:
        room = command.room
        if room is None:
            room = next(reversed(self.rooms), None)
            if room is None:
                raise Refused("not_joined", "you are in no room; join one first")
        else:
            self._check_joined(room)
        await self.check(Action.PUBLISH, topic_of(room))
        stored = await self.app.submit(room, self.user, command.text, command.key)
        if isinstance(stored, Position):
            await self._acknowledge(command.id, room, stored)
        else:
            self.later(
                functools.partial(self._acknowledge_stored, command.id, room, stored), command.id
            )

    async def _acknowledge_stored(self, id: Id | None, room: str, receipt: Receipt) -> None:
        await self._acknowledge(id, room, await receipt.position())

    async def _acknowledge(self, id: Id | None, room: str, position: Position) -> None:
        if id is not None:
            await self.send(reply("ack", id, room=room, offset=position.offset))

    async def _join(self, command: Join) -> None:
        room, settings = command.room, self.app.settings
        await self.check(Action.SUBSCRIBE, topic_of(room))
        if room not in self.rooms and len(self.rooms) >= settings.max_rooms:
            raise Refused(
                "too_many_rooms", f"at most {settings.max_rooms} rooms at once; leave one first"
            )
        if not self.app.hub.has_room_for(topic_of(room)):
            raise Refused("no_more_rooms", "no room can be opened now; join one that others are in")
        # The hub leaves a room before it joins it again; if the store fails in between, it is left.
        presence = self.rooms.pop(room, False) if command.presence is None else command.presence
        self.rooms.pop(room, None)
        await self.app.hub.subscribe(
            topic_of(room),
            self.connection,
            user=self.user,
            since=position_of(command.since),
            limit=0 if command.since is None else settings.max_page,
            greet=functools.partial(self._greet, command),
            presence=presence,
        )
        self.rooms[room] = presence

    def _greet(self, command: Join, joined: Joined) -> list[bytes]:
        missed, recovered = b"", True
        if command.since is not None:
            missed, whole = joined.once(self.app.encode_missed)
            recovered = joined.recovered and whole
        return [text_frame(joined_reply(command.room, command.id, joined, recovered, missed))]

    async def _tell_members(self, command: Members) -> None:
        told = await self.app.look_up_members(command.room)
        await self.send(reply("members", command.id, **told))
        if command.room in self.rooms and self.app.members(command.room) != told:
            # It had to wait, and presence frames may have come before it: the next puts it right.
            self.app.hub.refresh_presence(topic_of(command.room))

    def _check_joined(self, room: str) -> None:
        if room not in self.rooms:
            raise Refused("not_joined", "you are not in this room; join it first")


def topic_of(room: str) -> str:
    """Return the topic that carries a room."""
    return f"{KIND}:{room}"


def scoped_key(user: str, key: str | None) -> str | None:
    """Return a key that no other user's can equal: the length says where the name ends."""
    return None if key is None else f"{len(user)}:{user}:{key}"


def to_json(publication: Publication) -> bytes:
    """Return the JSON of a message as clients see it."""
    room = msgspec.json.encode(publication.topic[len(KIND) + 1 :])
    head = b'{"type":"message","room":%b,"offset":%d,' % (room, publication.position.offset)
    return head + publication.payload[1:]


def encode(publication: Publication) -> bytes:
    """Return the frame of a message."""
    return text_frame(to_json(publication))


def encode_presence(topic: str, change: Change) -> bytes:
    """Return the frame that tells who came and went; in a crowd, the count alone.

    ``members`` are all there are, when those who listen may not know them: after a crowd.
    """
    fields: dict[str, Any] = {"room": topic[len(KIND) + 1 :], "count": change.count}
    if change.named:
        fields |= {"joined": change.joined, "left": change.left}
    if change.members is not None:
        fields["members"] = change.members
    return text_frame(reply("presence", None, **fields))


def joined_reply(room: str, id: Id | None, joined: Joined, recovered: bool, missed: bytes) -> bytes:
    """Return the JSON of ``joined``; ``missed`` are the messages with commas between them."""
    head = reply(
        "joined",
        id,
        room=room,
        position=joined.position,
        members=joined.members,
        recovered=recovered,
    )
    return b'%b,"messages":[%b]}' % (head[:-1], missed)
