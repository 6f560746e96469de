"""A client that comes back: connections one after the other, one sequence of publications.

In: where the server is, who we are. Out: publications and gaps in order, answers to commands, a
state for people. The rules: every wait has a deadline; what may pass is tried again after a wait
that is drawn at random; what won't pass ends the client with one typed exception, which whoever
iterates, asks, or leaves is told.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, Self, TypeAlias, TypeVar

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection

from trio_gateway.client.backoff import Backoff
from trio_gateway.client.commands import Commands
from trio_gateway.client.errors import (
    ClientClosed,
    ClientError,
    CommandRefused,
    NotAcknowledged,
    NotAGateway,
)
from trio_gateway.client.feed import Feed, Gap, Page, Positioned
from trio_gateway.client.frames import AnyFrame, ErrorFrame, Frame, WelcomeFrame, decode
from trio_gateway.client.judge import Judge
from trio_gateway.client.link import Lost, Watched, talk
from trio_gateway.client.options import Closed, Connecting, Live, Options, State, Waiting
from trio_gateway.client.target import Target, explain
from trio_gateway.hub.positions import Position

_log = logging.getLogger("trio_gateway.client")

Receive: TypeAlias = Callable[[], Awaitable[AnyFrame | None]]
T = TypeVar("T", bound=Positioned)
F = TypeVar("F", bound=Frame)


class Client(ABC, Generic[T]):
    """One topic of one server; made by ``connect_chat()`` and ``connect_notifications()``.

    ``async for`` over it yields publications in order, each once, and a ``Gap`` where some are
    lost. It never ends by itself: it raises the ``ClientError`` that ended the client. One task
    iterates; any number of tasks may call the other methods.
    """

    def __init__(self, target: Target, options: Options) -> None:
        self._target = target
        self._options = options
        self._settings = options.settings
        self._feed: Feed[T] = Feed(self._settings.max_queued, options.since)
        self._commands = Commands(self._new_backoff)
        self._backoff = self._new_backoff()
        self._state: State = Connecting()
        self._changed = trio.Event()
        self._position = options.since
        self._judge = Judge(options.token, options.settings.max_retry)
        self._lived: float | None = None
        self._filling = trio.CancelScope()
        self._filled = trio.Event()
        self._leaving = trio.Event()
        self._left = trio.Event()
        self._error_is_told = False

    @property
    def state(self) -> State:
        """Connecting, live, waiting until some time, or closed."""
        return self._state

    @property
    def position(self) -> Position | None:
        """The position of what the ``async for`` yielded last: ``since`` of a later run."""
        return self._position

    @property
    def user(self) -> str | None:
        """Who we are to the server, None unless live."""
        return self._state.user if isinstance(self._state, Live) else None

    async def wait_live(self) -> None:
        """Wait until a connection is live; cancelled, nothing has happened.

        Raises:
            ClientError: there will be none.
        """
        while not isinstance(self._state, Live):
            if isinstance(self._state, Closed):
                raise self._told()
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> Self:
        """Iterate over publications and gaps."""
        return self

    async def __anext__(self) -> T | Gap:
        """Return the next; cancelled, it stays the next.

        Raises:
            ClientError: what ended the client, once all that came before is taken.
        """
        try:
            item = await self._feed.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise self._told() from None
        self._position = item.position
        return item

    async def run(self) -> None:
        """Connect, again and again, until cancelled, left, or refused for good."""
        try:
            while not self._leaving.is_set():
                await self._attempt()
        except ClientError as final:
            self._close(final)
        finally:
            self._left.set()

    async def leave(self) -> None:
        """Say goodbye to the server, if it is there; raises the error that nobody was told."""
        if isinstance(self._state, Live):
            self._leaving.set()
            with trio.move_on_after(self._settings.closing_timeout):
                await self._left.wait()
        if isinstance(self._state, Closed) and self._state.error and not self._error_is_told:
            raise self._told()

    def discard(self) -> None:
        """Drop what nobody took; who still iterates or asks is told ``ClientClosed``."""
        if not isinstance(self._state, Closed):
            self._close(None)
        self._feed.discard()

    @abstractmethod
    def _resource(self, since: Position | None) -> str:
        """Return the request target."""

    @abstractmethod
    async def _open(self, welcome: WelcomeFrame, receive: Receive) -> None:
        """Take a welcome and what follows it, up to where ``self._feed`` begins."""

    @abstractmethod
    def _beginning(self, frame: AnyFrame) -> Callable[[], None] | None:
        """Return what begins ``self._feed`` anew where a frame says so in mid-connection.

        The server has missed something itself, and tells it as if we had come back.
        """

    @abstractmethod
    def _on_frame(self, frame: AnyFrame) -> None:
        """Take a frame that answers no command; raises Lost to connect anew."""

    @abstractmethod
    async def _read(self, before: int, limit: int) -> Page[T]:
        """Read history."""

    async def _ask(self, within: float | None, kind: type[F], type: str, **fields: str | int) -> F:
        """Ask within a time; raises NotAcknowledged, and what ``Commands.ask`` raises."""
        try:
            with trio.move_on_after(self._settings.publish_timeout if within is None else within):
                return await self._commands.ask(kind, type, **fields)
        except ClientError as error:
            self._error_is_told |= isinstance(self._state, Closed) and self._state.error is error
            raise
        why = self._state.why if isinstance(self._state, Waiting) else "no answer in time"
        key = fields.get("key")
        raise NotAcknowledged(None if key is None else str(key), why)

    async def _attempt(self) -> None:
        """Make one connection, live it, and wait as its end asks."""
        self._enter(Connecting())
        self._lived = None
        try:
            await self._connect()
            return
        except Lost as error:
            lost = error
        except ConnectionRejected as error:
            lost = self._judge.status(error)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            lost = Lost(explain(error))
        if self._leaving.is_set():
            return
        stable = self._settings.stable_time
        if self._lived is not None and trio.current_time() - self._lived >= stable:
            self._backoff.reset()
        if lost.told is None:
            delay = self._backoff.next()
        else:
            delay = self._backoff.after(lost.told, jittered=lost.jittered)
        self._enter(Waiting(trio.current_time() + delay, lost.why))
        await trio.sleep(delay)

    async def _connect(self) -> None:
        """Make a connection and stay with it until it ends; returns when the program leaves."""
        with trio.move_on_after(self._settings.connect_timeout) as opening:
            headers = await self._judge.authorization()
            dial = self._options.connect or partial(
                self._target.open_stream, self._options.ssl_context
            )
            stream = await dial()
            try:
                watched = Watched(stream, self._settings.send_timeout)
                await talk(
                    watched,
                    self._target.authority,
                    self._target.prefix + self._resource(self._feed.reached),
                    partial(self._use, watched, opening),
                    headers=headers,
                    max_message_size=self._settings.max_message_size,
                )
            finally:
                await trio.aclose_forcefully(stream)
        if opening.cancelled_caught:
            raise Lost("no answer in time")

    async def _use(
        self, watched: Watched, opening: trio.CancelScope, connection: WebSocketConnection
    ) -> None:
        """Live one connection."""
        try:
            welcome = await self._welcome(connection)
        except ConnectionClosed:
            raise self._judge.close(connection.closed) from None
        heartbeat = welcome.heartbeat or self._settings.heartbeat
        watched.expect(heartbeat + self._settings.heartbeat_grace)
        opening.deadline = float("inf")
        self._judge.live()
        self._lived = trio.current_time()
        self._enter(Live(welcome.user, welcome.connection))
        ending: list[Lost] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_closed, self._commands.send, connection.send_message)
            self._fill(nursery)
            nursery.start_soon(self._say_goodbye, connection, nursery.cancel_scope)
            nursery.start_soon(_until_closed, _ping, connection, watched, heartbeat)
            try:
                # What came before the end is taken first, whoever noticed the end.
                await self._listen(connection, nursery)
            except ConnectionClosed:
                pass
            except Lost as lost:
                ending.append(lost)
            if not self._leaving.is_set():
                nursery.cancel_scope.cancel()
        if not self._leaving.is_set():
            raise ending[0] if ending else self._judge.close(connection.closed)

    async def _welcome(self, connection: WebSocketConnection) -> WelcomeFrame:
        async def receive() -> AnyFrame | None:
            frame = decode(await connection.get_message())
            if isinstance(frame, ErrorFrame):
                if frame.passes:
                    told = None if frame.retry is None else frame.retry / 1000
                    raise Lost(f"{frame.code}: {frame.message}", told)
                raise CommandRefused(frame.code, frame.message, frame.field)
            return frame

        frame = await receive()
        if not isinstance(frame, WelcomeFrame):
            raise NotAGateway("the server's first message is no welcome; is this a gateway's URL?")
        await self._open(frame, receive)
        return frame

    async def _listen(self, connection: WebSocketConnection, nursery: trio.Nursery) -> None:
        while True:
            frame = decode(await connection.get_message())
            if frame is None or self._commands.answer(frame):
                continue
            begin = self._beginning(frame)
            if begin is None:
                self._on_frame(frame)
                continue
            # What is being read of before would end up behind it.
            self._filling.cancel()
            await self._filled.wait()
            begin()
            self._fill(nursery)

    def _fill(self, nursery: trio.Nursery) -> None:
        """Fill the feed from the history until that is interrupted."""
        self._filling, self._filled = trio.CancelScope(), trio.Event()

        async def fill(scope: trio.CancelScope, over: trio.Event) -> None:
            with scope:
                await self._feed.fill(self._read)
            over.set()

        nursery.start_soon(fill, self._filling, self._filled)

    async def _say_goodbye(self, connection: WebSocketConnection, scope: trio.CancelScope) -> None:
        await self._leaving.wait()
        with trio.move_on_after(self._settings.closing_timeout):
            await connection.aclose()
        scope.cancel()

    def _new_backoff(self) -> Backoff:
        settings = self._options.settings
        return Backoff(settings.backoff_base, settings.backoff_cap, self._options.uniform)

    def _enter(self, state: State) -> None:
        self._state = state
        self._changed.set()
        self._changed = trio.Event()
        url = self._target.url
        match state:
            case Waiting(until=until, why=why):
                wait = round(until - trio.current_time(), 3)
                _log.info("waiting", extra={"url": url, "seconds": wait, "why": why})
            case Live(user=user, connection=connection):
                _log.info("live", extra={"url": url, "user": user, "connection": connection})
            case Closed(error=error) if error is not None:
                _log.warning("closed", extra={"url": url, "why": str(error)})
            case _:
                pass
        if self._options.on_state is not None:
            self._options.on_state(state)

    def _close(self, error: ClientError | None) -> None:
        self._commands.fail(error or ClientClosed())
        self._feed.close()
        self._enter(Closed(error))

    def _told(self) -> ClientError:
        """Return why there is no more, to be raised."""
        self._error_is_told = True
        error = self._state.error if isinstance(self._state, Closed) else None
        return error or ClientClosed()


C = TypeVar("C", bound="Client[Any]")


@asynccontextmanager
async def running(client: C) -> AsyncGenerator[C, None]:
    """Run a client for the length of an ``async with``; exceptions come out as they are."""
    single: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            yield client
            await client.leave()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        single, *others = group.exceptions
        if others:
            raise
    finally:
        client.discard()
    if single is not None:
        raise single


async def _until_closed(work: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Work on a connection; its end is for the listener to tell."""
    try:
        await work(*arguments)
    except ConnectionClosed:
        pass


async def _ping(connection: WebSocketConnection, watched: Watched, interval: float) -> None:
    """Ask a server that is silent to say something; the watched stream sees whether it does.

    Its own pings can't be waited for: it needs none while it hears from us.
    """
    while True:
        await trio.sleep_until(watched.heard + interval)
        if trio.current_time() >= watched.heard + interval:
            with trio.move_on_after(interval):
                await connection.ping()
