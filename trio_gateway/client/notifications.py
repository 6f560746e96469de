"""The notifications of one user, as a client has them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import Any, Unpack
from urllib.parse import urlencode

import attrs

from trio_gateway.client.client import Client, Receive, running
from trio_gateway.client.errors import NotAGateway
from trio_gateway.client.feed import Page
from trio_gateway.client.frames import (
    AnyFrame,
    At,
    ListFrame,
    NotificationFrame,
    UnreadFrame,
    WelcomeFrame,
)
from trio_gateway.client.link import Lost
from trio_gateway.client.options import ClientOptions, Options
from trio_gateway.client.target import Target
from trio_gateway.hub.positions import Position

_PATH = "/notifications/ws"


@attrs.frozen
class Notification:
    """A notification.

    Attributes:
        position: where it stands among the user's.
        title: one line.
        body: more text, or ``""``.
        data: JSON for programs.
        time: when the server took it, with its zone.
        read: whether it was read when the server sent it.
    """

    position: Position
    title: str
    body: str
    data: Mapping[str, Any]
    time: datetime
    read: bool


class Inbox(Client[Notification]):
    """A user's notifications, for as long as ``async with connect_notifications()`` lasts."""

    def __init__(self, target: Target, user: str | None, options: Options) -> None:
        super().__init__(target, options)
        self._query = {} if user is None else {"user": user}
        self._epoch = ""
        self._latest = 0
        self._cursor = 0
        self._last: NotificationFrame | None = None

    @property
    def unread(self) -> int:
        """How many are unread, those that the ``async for`` has not yielded yet among them."""
        return max(0, self._latest - self._cursor)

    async def mark_read(self, offset: int, *, within: float | None = None) -> int:
        """Mark all up to ``offset`` as read; return how many are unread then.

        Arguments:
            offset: of a notification's position.
            within: seconds; None for ``ClientSettings.publish_timeout``.

        If this is cancelled, it may or may not have been done; doing it twice is no harm.

        Raises:
            NotAcknowledged: the same, after that time.
            ClientError: what ended the client, or refused this.
        """
        answer = await self._ask(within, UnreadFrame, "read", offset=offset)
        self._on_frame(answer)
        return answer.count

    def _resource(self, since: Position | None) -> str:
        # What was missed is listed, at the consumer's pace: the server need not send it as well.
        return f"{_PATH}?{urlencode(self._query)}" if self._query else _PATH

    async def _open(self, welcome: WelcomeFrame, receive: Receive) -> None:
        if welcome.position is None:
            raise NotAGateway("the welcome has no position; is this the URL of notifications?")
        self._begin(welcome, welcome.position)

    def _begin(self, welcome: WelcomeFrame, position: At) -> None:
        self._epoch = position.epoch
        self._last = None
        self._latest = position.offset
        self._cursor = self._latest - welcome.unread
        self._feed.begin(position.position(), None)

    def _beginning(self, frame: AnyFrame) -> Callable[[], None] | None:
        if isinstance(frame, WelcomeFrame) and frame.position is not None:
            return partial(self._begin, frame, frame.position)
        return None

    def _on_frame(self, frame: AnyFrame) -> None:
        if isinstance(frame, UnreadFrame):
            if frame.offset is not None:
                self._cursor = max(self._cursor, frame.offset)
        elif isinstance(frame, NotificationFrame) and frame.topic is None:
            last, self._last = self._last, frame
            if last is not None and frame.offset <= last.offset and frame != last:
                raise Lost("the notifications began anew")  # the offsets of one epoch rise
            self._latest = max(self._latest, frame.offset)
            self._feed.offer(self._notification(frame))

    async def _read(self, before: int, limit: int) -> Page[Notification]:
        page = await self._commands.ask(ListFrame, "list", before=before, limit=limit)
        return Page([self._notification(frame) for frame in page.notifications], page.more)

    def _notification(self, frame: NotificationFrame) -> Notification:
        position = Position(self._epoch, frame.offset)
        return Notification(position, frame.title, frame.body, frame.data, frame.time, frame.read)


def connect_notifications(
    url: str, *, user: str | None = None, **options: Unpack[ClientOptions]
) -> AbstractAsyncContextManager[Inbox]:
    """Receive a user's notifications for the length of an ``async with``.

    ::

        async with connect_notifications("ws://localhost:3000/", user="ann") as inbox:
            async for event in inbox:
                if isinstance(event, Notification):
                    print(event.title, f"({inbox.unread} unread)")
                    await inbox.mark_read(event.position.offset)

    Arguments:
        url: the gateway's, as for ``connect_chat()``; with or without ``/notifications/ws``.
        user: who we are, where the server believes that.
        options: as for ``connect_chat()``.

    Raises:
        ValueError: the URL is none.
        ClientError: at the end, when something has ended the client and nobody was told.
    """
    target = Target.parse(url)
    target = attrs.evolve(target, prefix=target.prefix.removesuffix(_PATH))
    return running(Inbox(target, user, Options(**options)))
