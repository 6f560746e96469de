"""Two routes, for people with a token."""

from functools import partial

import trio

from trio_gateway import Identity, Refusal, Router, Upgrade, serve_websocket
from trio_gateway.connection.frames import text_frame
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker

router = Router()


@router.route("/echo")
async def echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


hub = Hub(MemoryBroker())
hub.encode_with("room", lambda publication: text_frame(publication.payload))


@router.route("/rooms/{room}")
async def room(upgrade: Upgrade) -> None:
    assert upgrade.identity is not None  # authenticate() has seen to it
    topic, user = f"room:{upgrade.params['room']}", upgrade.identity.user
    connection = await upgrade.accept()
    try:
        await hub.subscribe(topic, connection, user=user)
        async for message in connection:
            await hub.publish(topic, f"{user}: {message!s}".encode())
    finally:
        await hub.leave_all(connection)


TOKENS = {"orange-juice": "ann", "apple-pie": "bob"}


async def authenticate(upgrade: Upgrade) -> Identity | Refusal:
    user = TOKENS.get(upgrade.query.get("token", ""))
    return Identity(user) if user else Refusal(401, "bad_token", "connect with ?token=TOKEN")


serve = partial(serve_websocket, router, hub=hub, authenticate=authenticate)

if __name__ == "__main__":
    trio.run(serve, "127.0.0.1", 8000, None)
