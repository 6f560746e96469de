"""Chatting clients that resume, and what they must have seen in the end."""

import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio

from trio_gateway.client import Gap, Live, Message, Room, State, Waiting, connect_chat
from trio_gateway.client.target import Target

_PAUSE = 0.2


@attrs.define(eq=False)
class Chat:
    """Clients in rooms, each saying numbered texts and keeping what it hears.

    Attributes:
        url: where they are.
        clients: how many.
        rooms: over how many rooms.
        said: texts that are acknowledged, by room.
        heard: what each client has heard, in order.
        refused: connects that were refused.
        answers: how upgrades and breaks ended, in the clients' words.
    """

    url: str
    clients: int
    rooms: int = attrs.Factory(lambda chat: max(4, chat.clients // 15), takes_self=True)
    said: dict[str, list[str]] = attrs.Factory(dict)
    heard: dict[str, list[str]] = attrs.Factory(dict)
    refused: list[str] = attrs.Factory(list)
    answers: Counter[str] = attrs.Factory(Counter)
    connects: int = 0
    _over: trio.Event = attrs.Factory(trio.Event)
    _saying: int = 0
    _live: int = 0
    _all_live: trio.Event = attrs.Factory(trio.Event)

    def count_breaks(self) -> int:
        """Return how many connections were closed for a restart, none having ended otherwise."""
        lives = self.answers.pop("live", 0)
        assert set(self.answers) <= {"closed with 1012: retry MS"}, self.answers
        return lives - self.clients

    async def say_for(self, seconds: float) -> None:
        """Let everybody say something for a while."""
        await self._all_live.wait()
        await trio.sleep(seconds)

    @asynccontextmanager
    async def going_on(self) -> AsyncGenerator[None, None]:
        """Chat for as long as this lasts, then see that everybody has heard everything."""
        async with trio.open_nursery() as nursery:
            for number in range(self.clients):
                nursery.start_soon(self._take_part, number)
            nursery.start_soon(self._knock)
            with trio.fail_after(30):
                await self._all_live.wait()
            yield
            self._over.set()

    def check(self) -> None:
        """Nothing is missing, nothing is there twice, and one order is everybody's."""
        assert [] == self.refused
        for room, said in self.said.items():
            listeners = [texts for user, texts in self.heard.items() if user.startswith(f"{room}.")]
            assert sorted(said) == sorted(listeners[0])
            for texts in listeners:
                assert listeners[0] == texts

    async def _take_part(self, number: int) -> None:
        room = f"room{number % self.rooms}"
        user = f"{room}.{number}"
        self.heard[user] = []
        async with (
            connect_chat(
                self.url, room=room, user=user, connect=self._connect, on_state=self._note
            ) as client,
            trio.open_nursery() as nursery,
        ):
            await client.wait_live()
            self._live += 1
            if self._live == self.clients:
                self._all_live.set()
            await self._all_live.wait()
            nursery.start_soon(self._listen, client, user)
            self._saying += 1
            count = 0
            while not self._over.is_set():
                text = f"{number}.{count}"
                await client.publish(text, within=60)
                self.said.setdefault(room, []).append(text)
                count += 1
                await trio.sleep(_PAUSE)
            self._saying -= 1
            with trio.fail_after(60):
                while self._saying or len(self.heard[user]) < len(self.said[room]):  # noqa: ASYNC110 - what is in flight has no event
                    await trio.sleep(_PAUSE)
            nursery.cancel_scope.cancel()

    async def _listen(self, client: Room, user: str) -> None:
        async for event in client:
            assert not isinstance(event, Gap), event
            assert isinstance(event, Message)
            self.heard[user].append(event.text)

    async def _connect(self) -> trio.abc.Stream:
        target = Target.parse(self.url)
        self.connects += 1
        try:
            return await target.open_stream()
        except OSError as error:
            self.refused.append(str(error))
            raise

    async def _knock(self) -> None:
        """Connect again and again, as new clients do."""
        while not self._over.is_set():
            stream = await self._connect()
            await stream.aclose()
            await trio.sleep(0.005)

    def _note(self, state: State) -> None:
        if isinstance(state, Waiting):
            self.answers[re.sub("[0-9]+$", "MS", state.why)] += 1
        elif isinstance(state, Live):
            self.answers["live"] += 1
