"""kill -9 in the middle of publishing: what was acknowledged is there, once and in order."""

import json
import random
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from tests.cli.process import Running, gateway
from trio_gateway.cli.checklist.probe import Site
from trio_gateway.client.target import Target

_ROOMS = ["one", "two"]
_CLIENTS = 4
_TOKEN = "secret"
_IN_FLIGHT = 16


@attrs.define
class Ledger:
    """What the clients know, over all lives of the gateway.

    Attributes:
        acknowledged: the offset of each text, by room.
        unanswered: texts that were sent and not acknowledged, by room.
        enough: set when this life has acknowledged ``target`` messages.
    """

    acknowledged: dict[str, dict[str, int]] = attrs.Factory(lambda: defaultdict(dict))
    unanswered: dict[str, set[str]] = attrs.Factory(lambda: defaultdict(set))
    target: int = 0
    enough: trio.Event = attrs.Factory(trio.Event)

    def take(self, room: str, text: str, offset: int) -> None:
        before = self.acknowledged[room].setdefault(text, offset)
        assert before == offset
        self.unanswered[room].discard(text)
        self.target -= 1
        if self.target <= 0:
            self.enough.set()


@asynccontextmanager
async def connect(
    running: Running, room: str, client: int
) -> AsyncGenerator[WebSocketConnection, None]:
    site = Site(Target.parse(running.url), None, "test")
    async with site.connect("/", room=room, user=f"user{client}") as talk:
        yield talk.connection


async def publish_until_killed(running: Running, ledger: Ledger, client: int, life: int) -> None:
    """Keep messages in flight, numbered, until the connection breaks."""
    room = _ROOMS[client % len(_ROOMS)]
    slots = trio.Semaphore(_IN_FLIGHT)
    with suppress(ConnectionClosed, HandshakeError, OSError, trio.BrokenResourceError):
        async with connect(running, room, client) as connection, trio.open_nursery() as nursery:

            async def read() -> None:
                with suppress(ConnectionClosed):
                    while True:
                        frame = json.loads(await connection.get_message())
                        assert frame["type"] != "error", frame
                        if frame["type"] == "ack":
                            slots.release()
                            ledger.take(room, frame["id"], frame["offset"])
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            with suppress(ConnectionClosed):
                for number in range(1_000_000):
                    await slots.acquire()
                    text = f"{client}.{life}.{number:06}"
                    ledger.unanswered[room].add(text)
                    command = {"type": "message", "text": text, "key": text, "id": text}
                    await connection.send_message(json.dumps(command))


async def read_history(running: Running, room: str) -> list[tuple[int, str]]:
    """Return the offset and the text of all messages of a room."""
    target = Target.parse(running.url)
    messages: list[tuple[int, str]] = []
    before = ""
    while True:
        answer = await target.request(
            "GET", f"/api/rooms/{room}/history?limit=100{before}", token=_TOKEN
        )
        page: Any = answer.json()
        messages[:0] = [(message["offset"], message["text"]) for message in page["messages"]]
        if not page["more"]:
            return messages
        before = f"&before={messages[0][0]}"


async def check(running: Running, ledger: Ledger) -> None:
    for room in _ROOMS:
        messages = await read_history(running, room)
        assert list(range(1, len(messages) + 1)) == [offset for offset, _ in messages]
        texts = {text: offset for offset, text in messages}
        assert len(messages) == len(texts)
        acknowledged = ledger.acknowledged[room]
        assert acknowledged == {text: texts.get(text) for text in acknowledged}
        assert texts.keys() <= acknowledged.keys() | ledger.unanswered[room]
        for client in range(_CLIENTS):
            said = [text for _, text in messages if text.startswith(f"{client}.")]
            assert sorted(said, key=lambda t: (int(t.split(".")[1]), t)) == said


async def repeat(running: Running, ledger: Ledger, dice: random.Random) -> None:
    """Send again what was not acknowledged, and some of what was: the keys tell."""
    for client in range(_CLIENTS):
        room = _ROOMS[client % len(_ROOMS)]
        known = sorted(t for t in ledger.acknowledged[room] if t.startswith(f"{client}."))
        mine = sorted(t for t in ledger.unanswered[room] if t.startswith(f"{client}."))
        again = dice.sample(known, min(5, len(known)))
        async with connect(running, room, client) as connection:
            for text in [*again, *mine]:
                command = {"type": "message", "text": text, "key": text, "id": text}
                await connection.send_message(json.dumps(command))
                frame = {"type": ""}
                while frame["type"] != "ack":
                    frame = json.loads(await connection.get_message())
                    assert frame["type"] != "error", frame
                ledger.take(room, text, int(frame["offset"]))


@pytest.mark.parametrize(
    "synchronous, times",
    [
        ("normal", 3),
        pytest.param("normal", 20, marks=pytest.mark.long),
        pytest.param("full", 20, marks=pytest.mark.long),
    ],
)
async def test_kill_9_loses_nothing_that_was_acknowledged(
    tmp_path: Path, synchronous: str, times: int
) -> None:
    """After each restart every acknowledged message is in the history once, in order."""
    arguments = (
        *("--store", f"sqlite:{tmp_path / 'store.db'}", "--store-synchronous", synchronous),
        *("--history-messages", "1000000", "--history-bytes", "1000000000"),
        *("--messages-per-second", "0", "--api-requests-per-second", "0"),
        *("--api-token", _TOKEN),
    )
    dice = random.Random(times)
    ledger = Ledger()
    for life in range(times):
        async with gateway(*arguments) as running:
            await check(running, ledger)
            await repeat(running, ledger, dice)
            await check(running, ledger)
            ledger.target, ledger.enough = dice.randrange(1, 400), trio.Event()
            async with trio.open_nursery() as nursery:
                for client in range(_CLIENTS):
                    nursery.start_soon(publish_until_killed, running, ledger, client, life)
                await ledger.enough.wait()
                running.process.kill()
    async with gateway(*arguments) as running:
        await check(running, ledger)
        await repeat(running, ledger, dice)
        await check(running, ledger)
        assert not any(ledger.unanswered.values())
        assert sum(map(len, ledger.acknowledged.values())) > times
