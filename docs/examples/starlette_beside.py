"""Starlette and WebSockets on one port, and a route that publishes to whoever is connected.

Run it with ``python docs/examples/starlette_beside.py``, connect with
``npx wscat -c ws://localhost:8000/chat`` and publish with
``curl localhost:8000/announce -d 'text=Lunch is ready'``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from trio_gateway import Router, serve_websocket
from trio_gateway.apps.chat import ChatApp
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Runs in the gateway's nursery: before the first request, and after the last."""
    app.state.announcements = 0
    yield


async def home(request: Request) -> Response:
    return PlainTextResponse(f"{request.app.state.announcements} announcements so far\n")


async def announce(request: Request) -> Response:
    """Everybody in the room gets it; the answer is sent once it is in the store."""
    form = parse_qs((await request.body()).decode())
    chat: ChatApp = request.app.state.chat
    position = await chat.publish(room="lobby", user="announcer", text=form["text"][0])
    request.app.state.announcements += 1
    return JSONResponse({"offset": position.offset}, status_code=201)


def make() -> tuple[Starlette, Router, Hub]:
    hub = Hub(MemoryBroker())
    chat = ChatApp(hub)
    app = Starlette(
        lifespan=lifespan,
        routes=[Route("/", home), Route("/announce", announce, methods=["POST"])],
    )
    app.state.chat = chat
    router = Router()
    router.route("/chat", chat.handle)
    return app, router, hub


async def main(host: str = "127.0.0.1", port: int = 8000) -> None:
    app, router, hub = make()
    await serve_websocket(router, host, port, None, http=app, hub=hub)


if __name__ == "__main__":
    trio.run(main)
