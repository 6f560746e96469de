"""A server that prints a URL with a token, as Jupyter does: who has the URL may connect.

Run it with ``python docs/examples/printed_token.py`` and connect to what it prints with
``npx wscat -c URL``.
"""

import hmac
import secrets
from functools import partial

import trio

from trio_gateway import Gateway, Identity, Refusal, Upgrade, serve_websocket


class PrintedToken:
    """Asks for ``?token=TOKEN``, or for a header ``Authorization: token TOKEN``.

    Attributes:
        token: made anew for each run.
        ambient: False, because no browser sends a token unasked: pages of any host may connect.
    """

    ambient = False

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)

    async def __call__(self, upgrade: Upgrade) -> Identity | Refusal:
        header = dict(upgrade.headers).get(b"authorization", b"").decode("latin-1")
        shown = upgrade.query.get("token") or header.removeprefix("token ")
        if hmac.compare_digest(shown.encode(), self.token.encode()):
            return Identity("owner")
        return Refusal(403, "bad_token", "connect to the URL that was printed at the start")


async def greet(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    await connection.send_message("come in")
    async for message in connection:
        await connection.send_message(message)


async def main(port: int = 8000) -> None:
    token = PrintedToken()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, greet, "127.0.0.1", port, None, authenticate=token)
        gateway: Gateway = await nursery.start(serve)
        print(f"ws://127.0.0.1:{gateway.port}/?token={token.token}", flush=True)


if __name__ == "__main__":
    trio.run(main)
