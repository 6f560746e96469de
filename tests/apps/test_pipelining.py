"""Messages that one client sends in a burst share a commit, and are answered in their order."""

import json
from pathlib import Path
from typing import Any

import pytest
from trio_websocket import WebSocketConnection

from trio_gateway.apps.assembly import Application
from trio_gateway.hub.sqlite import open_sqlite
from trio_gateway.testing import open_gateway


async def until(client: WebSocketConnection, wanted: str) -> list[Any]:
    """Return the frames up to the one with an ``id``, but for those that went to the room."""
    frames: list[Any] = []
    while not frames or frames[-1].get("id") != wanted:
        frame = json.loads(await client.get_message())
        if frame["type"] != "message":
            frames.append(frame)
    return frames


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def test_a_burst_is_stored_and_answered_in_order(path: Path) -> None:
    """Acknowledgements, refusals and other replies come as the commands came."""
    async with open_sqlite(path) as broker:
        application = Application(broker)
        async with (
            open_gateway(application.router, hub=application.hub) as server,
            server.open_websocket("/?user=ann") as client,
        ):
            await client.get_message()
            await client.get_message()
            for number in range(10):
                await client.send_message(
                    json.dumps({"type": "message", "text": f"{number}", "id": f"m{number}"})
                )
            commands = [
                {"type": "message", "room": "elsewhere", "text": "x", "id": "refused"},
                {"type": "message", "text": "last", "id": "m10"},
                {"type": "history", "room": "lobby", "id": "h"},
                {"type": "nonsense", "id": "n"},
            ]
            for command in commands:
                await client.send_message(json.dumps(command))
            frames = await until(client, "n")
            expected = [*(f"m{n}" for n in range(10)), "refused", "m10", "h", "n"]
            assert expected == [frame["id"] for frame in frames]
            assert list(range(1, 11)) == [frame["offset"] for frame in frames[:10]]
            assert "last" == frames[-2]["messages"][-1]["text"]
            assert 11 == broker.statistics().publications


async def test_a_client_that_leaves_behind_a_burst_has_sent_it(path: Path) -> None:
    """What was taken is stored, whoever waits for it."""
    async with open_sqlite(path) as broker:
        application = Application(broker)
        async with open_gateway(application.router, hub=application.hub) as server:
            async with server.open_websocket("/?user=ann") as client:
                await client.get_message()
                await client.get_message()
                for number in range(10):
                    await client.send_message(f"{number}")
            async with server.open_websocket("/?user=bob") as client:
                await client.get_message()
                await client.get_message()
                await client.send_message('{"type":"history","room":"lobby","id":1}')
                page = json.loads(await client.get_message())
                while page["type"] != "history":
                    page = json.loads(await client.get_message())
        texts = [message["text"] for message in page["messages"]]
        assert [str(number) for number in range(len(texts))] == texts
