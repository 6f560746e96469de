"""A room of the chat, as a client has it."""

import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import Unpack
from urllib.parse import urlencode

import attrs
import trio

from trio_gateway.client.client import Client, Receive, running
from trio_gateway.client.feed import Page
from trio_gateway.client.frames import (
    AckFrame,
    AnyFrame,
    HistoryFrame,
    JoinedFrame,
    MessageFrame,
    WelcomeFrame,
)
from trio_gateway.client.link import Lost
from trio_gateway.client.options import ClientOptions, Options
from trio_gateway.client.target import Target
from trio_gateway.hub.positions import Position


@attrs.frozen
class Message:
    """A message of a room.

    Attributes:
        position: where it stands in the room.
        user: who said it.
        text: what was said.
        time: when the server took it, with its zone.
    """

    position: Position
    user: str
    text: str
    time: datetime


class Room(Client[Message]):
    """A room, joined for as long as the ``async with`` of ``connect_chat()`` lasts."""

    def __init__(self, target: Target, room: str, user: str | None, options: Options) -> None:
        super().__init__(target, options)
        self.room = room
        self._query = {"room": room} | ({} if user is None else {"user": user})
        self._epoch = ""
        self._last: MessageFrame | None = None

    async def publish(
        self, text: str, *, key: str | None = None, within: float | None = None
    ) -> Position:
        """Say something in the room; return its position once it is in the store.

        It is sent again after every break until it is acknowledged, and stored once.

        Arguments:
            text: what to say.
            key: the same user, room and key is stored once; None for one made here.
            within: seconds; None for ``ClientSettings.publish_timeout``.

        If this is cancelled, it may or may not be stored: publish again with the same ``key``.

        Raises:
            CommandRefused: nothing was stored.
            NotAcknowledged: it may or may not be stored; has the key.
            ClientError: what ended the client; it may or may not be stored.
        """
        key = key or secrets.token_urlsafe(12)
        answer = await self._ask(within, AckFrame, "message", room=self.room, text=text, key=key)
        return Position(self._epoch, answer.offset)

    def _resource(self, since: Position | None) -> str:
        query = self._query | ({} if since is None else {"since": str(since)})
        return f"/?{urlencode(query)}"

    async def _open(self, welcome: WelcomeFrame, receive: Receive) -> None:
        while not isinstance(joined := await receive(), JoinedFrame):
            pass  # a presence may come first
        self._begin(joined)

    def _begin(self, joined: JoinedFrame) -> None:
        self._epoch = joined.position.epoch
        self._last = None
        items = [self._message(frame) for frame in joined.messages]
        self._feed.begin(joined.position.position(), items)

    def _beginning(self, frame: AnyFrame) -> Callable[[], None] | None:
        if isinstance(frame, JoinedFrame) and frame.room == self.room:
            return partial(self._begin, frame)
        return None

    def _on_frame(self, frame: AnyFrame) -> None:
        if not isinstance(frame, MessageFrame) or frame.room != self.room:
            return
        last, self._last = self._last, frame
        if last is not None and frame.offset <= last.offset and frame != last:
            raise Lost("the room began anew")  # the offsets of one epoch rise
        self._feed.offer(self._message(frame))

    async def _read(self, before: int, limit: int) -> Page[Message]:
        page = await self._commands.ask(
            HistoryFrame, "history", room=self.room, before=before, limit=limit
        )
        if page.messages and page.position is not None and page.position.epoch != self._epoch:
            # The room has begun anew, and the `joined` that says so is on its way: it ends this.
            await trio.sleep_forever()
        return Page([self._message(frame) for frame in page.messages], page.more)

    def _message(self, frame: MessageFrame) -> Message:
        position = Position(self._epoch, frame.offset)
        return Message(position, frame.user, frame.text, frame.time)


def connect_chat(
    url: str, *, room: str = "lobby", user: str | None = None, **options: Unpack[ClientOptions]
) -> AbstractAsyncContextManager[Room]:
    """Be in a room for the length of an ``async with``, however often the connection breaks.

    ::

        async with connect_chat("ws://localhost:3000/", room="lobby", user="ann") as room:
            await room.publish("hello")
            async for event in room:
                match event:
                    case Message(user=user, text=text):
                        print(f"{user}: {text}")
                    case Gap(lost=lost):
                        print(f"{lost} messages are lost; what is on the screen is stale")

    It enters at once and connects in the background, in a nursery of the ``async with``.

    Arguments:
        url: ``ws://HOST:PORT/``; also wss, http, https, http+unix, https+unix.
        room: its name.
        user: who we are, where the server believes that.
        options: the attributes of ``Options`` by keyword: ``token``, ``since``, ``ssl_context``,
            ``connect``, ``on_state``, ``settings``.

    Raises:
        ValueError: the URL is none.
        ClientError: at the end, when something has ended the client and nobody was told.
    """
    return running(Room(Target.parse(url), room, user, Options(**options)))
