"""The chat as a part of a program of your own, which also says something in it.

Run it with ``python docs/examples/chat_in_your_app.py`` and connect with
``npx wscat -c 'ws://localhost:8000/chat?room=clock'``. For the page, the HTTP API and the
notifications as well see ``trio_gateway.apps.assembly.Application``.
"""

from functools import partial

import trio

from trio_gateway import Router, serve_websocket
from trio_gateway.apps.chat import ChatApp
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker


def make() -> tuple[Router, Hub, ChatApp]:
    hub = Hub(MemoryBroker())
    chat = ChatApp(hub)
    router = Router()
    router.route("/chat", chat.handle)
    return router, hub, chat


async def tick(chat: ChatApp) -> None:
    """Any task may publish; who is not connected finds it in the history."""
    for minute in range(60):
        await chat.publish(room="clock", user="clock", text=f"minute {minute}")
        await trio.sleep(60)


async def main(host: str = "127.0.0.1", port: int = 8000) -> None:
    router, hub, chat = make()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_websocket, router, host, port, None, hub=hub))
        nursery.start_soon(tick, chat)


if __name__ == "__main__":
    trio.run(main)
