"""Quart-Trio and WebSockets on one port; a route publishes to the notifications of one user.

Run it with ``python docs/examples/quart_beside.py``, connect with
``npx wscat -c 'ws://localhost:8000/notifications?user=ann'`` and publish with
``curl localhost:8000/orders/7/ship -X POST -d user=ann``.
"""

import trio
from quart import request
from quart_trio import QuartTrio

from trio_gateway import Router, serve_websocket
from trio_gateway.apps.notifications import NotificationApp
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker


def make() -> tuple[QuartTrio, Router, Hub]:
    hub = Hub(MemoryBroker())
    notifications = NotificationApp(hub)
    app = QuartTrio(__name__)

    @app.get("/")
    async def home() -> str:
        return "ship something\n"

    @app.post("/orders/<int:order>/ship")
    async def ship(order: int) -> tuple[dict[str, int], int]:
        """The user hears of it wherever they are connected, or when they come back."""
        form = await request.form
        position = await notifications.notify(
            to=form["user"], title="Your order is on its way", data={"order": order}
        )
        return {"offset": position.offset}, 201

    router = Router()
    router.route("/notifications", notifications.handle)
    return app, router, hub


async def main(host: str = "127.0.0.1", port: int = 8000) -> None:
    app, router, hub = make()
    await serve_websocket(router, host, port, None, http=app, hub=hub)


if __name__ == "__main__":
    trio.run(main)
