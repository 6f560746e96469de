"""What clients may say, as types.

In: a text frame. Out: a command that keeps every rule of the wire page, or a ``Problem``, which is
the ``error`` frame to answer with. The rule: nothing that a peer can type raises out of a
``decode_*`` function, and a problem carries the command's id wherever it can be read.
"""

from typing import Annotated, TypeVar

import attrs
import msgspec
from msgspec import Meta

from trio_gateway.hub.positions import Position
from trio_gateway.wire import (
    MAX_ID,
    MAX_OFFSET,
    Id,
    InvalidField,
    Problem,
    TextLimits,
    check_key,
    check_name,
    check_text,
    decode,
)

Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
PageLimit = Annotated[int, Meta(ge=1, le=MAX_OFFSET)]


class At(msgspec.Struct, frozen=True):
    """A position as JSON has it."""

    epoch: str
    offset: Offset


class Command(msgspec.Struct, tag_field="type", kw_only=True):
    """What every command may carry."""

    id: Id | None = None

    def check(self, limits: TextLimits) -> None:
        """Raise InvalidField for what types alone cannot say."""
        if isinstance(self.id, str) and len(self.id) > MAX_ID:
            raise InvalidField("id", f"may have at most {MAX_ID} characters")


class Ping(Command, tag="ping"):
    """Ask for a sign of life: a script in a browser cannot see the pings of the protocol."""


class RoomCommand(Command):
    """A command about one room."""

    room: str

    def check(self, limits: TextLimits) -> None:
        """Raise InvalidField for what types alone cannot say."""
        Command.check(self, limits)
        check_name("room", self.room)


class Join(RoomCommand, tag="join"):
    """Join a room, from a position on if there is one."""

    since: At | None = None
    presence: bool | None = None

    def check(self, limits: TextLimits) -> None:
        """Raise InvalidField for what types alone cannot say."""
        RoomCommand.check(self, limits)
        position_of(self.since)


class Leave(RoomCommand, tag="leave"):
    """Leave a room."""


class Message(Command, tag="message"):
    """Say something, in the current room unless another is named."""

    text: str
    room: str | None = None
    key: str | None = None

    def check(self, limits: TextLimits) -> None:
        """Raise InvalidField for what types alone cannot say."""
        Command.check(self, limits)
        if self.room is not None:
            check_name("room", self.room)
        check_text("text", self.text, limits.max_text_bytes)
        check_key(self.key)


class History(RoomCommand, tag="history"):
    """Page back through a room."""

    before: Offset | None = None
    limit: PageLimit | None = None


class Members(RoomCommand, tag="members"):
    """Ask who is in a room."""


class Typing(RoomCommand, tag="typing"):
    """Tell the others that this user is typing."""


class Read(Command, tag="read"):
    """Mark all notifications up to an offset as read."""

    offset: Offset


class List(Command, tag="list"):
    """Page back through the user's notifications."""

    before: Offset | None = None
    limit: PageLimit | None = None


class TopicCommand(Command):
    """A command about one shared topic."""

    topic: str

    def check(self, limits: TextLimits) -> None:
        """Raise InvalidField for what types alone cannot say."""
        Command.check(self, limits)
        check_name("topic", self.topic)


class Subscribe(TopicCommand, tag="subscribe"):
    """Receive a shared topic too, from a position on if there is one."""

    since: At | None = None

    def check(self, limits: TextLimits) -> None:
        """Raise InvalidField for what types alone cannot say."""
        TopicCommand.check(self, limits)
        position_of(self.since)


class Unsubscribe(TopicCommand, tag="unsubscribe"):
    """Receive a shared topic no longer."""


class _OnlyId(msgspec.Struct):
    id: Id | None = None


ChatCommand = Join | Leave | Message | History | Members | Typing | Ping
NotificationCommand = Read | List | Subscribe | Unsubscribe | Ping

_C = TypeVar("_C", bound=Command)
_chat: msgspec.json.Decoder[ChatCommand] = msgspec.json.Decoder(ChatCommand)
_notification: msgspec.json.Decoder[NotificationCommand] = msgspec.json.Decoder(NotificationCommand)
_only_id = msgspec.json.Decoder(_OnlyId)


def decode_chat(text: str, limits: TextLimits) -> ChatCommand | Problem:
    """Read a text frame of the chat; what is not a JSON object is itself a message's text.

    A frame whose first character after white space is ``{`` is meant as an object: when it can't
    be read as one, that is a problem and not a message.
    """
    if not text.lstrip(" \t\r\n").startswith("{"):
        return _checked(Message(text=text), limits)
    return _decode(_chat, text, limits)


def decode_notification(text: str, limits: TextLimits) -> NotificationCommand | Problem:
    """Read a text frame of a notification connection."""
    return _decode(_notification, text, limits)


def position_of(at: At | None) -> Position | None:
    """Return the position that a client named; raises InvalidField when no server gave it."""
    return None if at is None else parse_position(f"{at.epoch}:{at.offset}")


def parse_position(text: str) -> Position:
    """Read ``EPOCH:OFFSET``; raises InvalidField when no server gave it."""
    try:
        return Position.parse(text)
    except ValueError:
        raise InvalidField("since", "must be a position as the server gave it") from None


def _decode(decoder: msgspec.json.Decoder[_C], source: str, limits: TextLimits) -> _C | Problem:
    command = decode(decoder, source)
    if isinstance(command, Problem):
        return attrs.evolve(command, id=_recover_id(source))
    return _checked(command, limits)


def _checked(command: _C, limits: TextLimits) -> _C | Problem:
    try:
        command.check(limits)
    except InvalidField as error:
        id = None if error.field == "id" else command.id
        return Problem("invalid_field", str(error), error.field, id)
    return command


def _recover_id(source: str) -> Id | None:
    found = decode(_only_id, source)
    if isinstance(found, Problem) or (isinstance(found.id, str) and len(found.id) > MAX_ID):
        return None
    return found.id
