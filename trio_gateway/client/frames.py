"""What a server says, as types.

In: the messages of a connection. Out: frames whose fields have the types of the wire page, None for
what this client doesn't know. The rule: unknown fields and unknown frames are passed over; nothing
that a server sends raises out of ``decode()``.
"""

from datetime import datetime
from typing import Any

import msgspec

from trio_gateway.hub.positions import Position

_TRANSIENT = frozenset({"store_unavailable", "rate_limited", "not_joined"})


class At(msgspec.Struct, frozen=True):
    """A position as JSON has it."""

    epoch: str
    offset: int

    def position(self) -> Position:
        """Return it as a value."""
        return Position(self.epoch, self.offset)


class Frame(msgspec.Struct, tag_field="type", kw_only=True):
    """What every frame may carry."""

    id: str | int | float | None = None


class MessageFrame(Frame, tag="message"):
    """A message of a room."""

    room: str
    offset: int
    user: str
    text: str
    time: datetime


class NotificationFrame(Frame, tag="notification"):
    """A notification."""

    offset: int
    title: str
    time: datetime
    body: str = ""
    data: dict[str, Any] = {}
    read: bool = False
    topic: str | None = None


class WelcomeFrame(Frame, tag="welcome"):
    """The first frame of a connection; a position has only that of notifications."""

    user: str
    connection: str = ""
    heartbeat: float = 0
    unread: int = 0
    position: At | None = None
    recovered: bool = True


class JoinedFrame(Frame, tag="joined"):
    """A room was joined."""

    room: str
    position: At
    members: int = 0
    recovered: bool = True
    messages: list[MessageFrame] = []


class AckFrame(Frame, tag="ack"):
    """A message is in the store."""

    room: str
    offset: int


class HistoryFrame(Frame, tag="history"):
    """A page of a room, and where that stands."""

    room: str
    messages: list[MessageFrame]
    more: bool
    position: At | None = None


class ListFrame(Frame, tag="list"):
    """A page of notifications."""

    notifications: list[NotificationFrame]
    more: bool


class UnreadFrame(Frame, tag="unread"):
    """How many notifications are unread, and up to where they are read."""

    count: int
    offset: int | None = None


class ErrorFrame(Frame, tag="error"):
    """A command was not obeyed; ``retry`` is the milliseconds after which it may be."""

    code: str
    message: str = ""
    field: str | None = None
    retry: int | None = None

    @property
    def passes(self) -> bool:
        """Whether the same command may be obeyed later."""
        return self.retry is not None or self.code in _TRANSIENT


AnyFrame = (
    MessageFrame
    | NotificationFrame
    | WelcomeFrame
    | JoinedFrame
    | AckFrame
    | HistoryFrame
    | ListFrame
    | UnreadFrame
    | ErrorFrame
)
_decoder: msgspec.json.Decoder[AnyFrame] = msgspec.json.Decoder(AnyFrame)


def decode(message: str | bytes) -> AnyFrame | None:
    """Read a message; None for what is no frame that this client knows."""
    try:
        return _decoder.decode(message)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
