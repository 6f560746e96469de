"""Is interrupted at the place its argument names, and tells what was left behind.

Prints JSON: whether a KeyboardInterrupt came out of ``trio.run``, how many descriptors are open
that were not before, and whether the handlers had their ``finally``.
"""

import json
import os
import signal
import sys
from functools import partial
from typing import NoReturn

import trio

from tests.rude.peer import Peer, text
from trio_gateway import (
    Connection,
    ConnectionClosed,
    Gateway,
    HttpRequest,
    Upgrade,
    serve_websocket,
)

where = sys.argv[1]
ended = list[str]()


def interrupt() -> None:
    """Be hit by Control-C right here."""
    signal.raise_signal(signal.SIGINT)


async def handler(upgrade: Upgrade) -> None:
    try:
        connection = await upgrade.accept()
        message = await connection.get_message()
        if message == "now" and where == "group":
            raise BaseExceptionGroup("mixed", [KeyboardInterrupt(), ValueError("and more")])
        if message == "now":
            interrupt()
        await trio.sleep_forever()
    except ConnectionClosed:
        pass
    finally:
        ended.append(upgrade.path)


async def http(request: HttpRequest) -> NoReturn:
    interrupt()
    await trio.sleep_forever()
    raise AssertionError


def interrupt_the_feed() -> None:
    """Have Control-C hit the code that reads for everybody."""
    feed = Connection.feed

    def interrupted(self: Connection, data: bytes) -> None:
        interrupt()
        feed(self, data)

    Connection.feed = interrupted  # type: ignore[method-assign]  # what the program is for


async def connect(gateway: Gateway) -> Peer:
    return Peer(await trio.open_tcp_stream("127.0.0.1", gateway.port))


async def main() -> None:
    async with trio.open_nursery() as nursery:
        gateway: Gateway = await nursery.start(
            partial(serve_websocket, handler, "127.0.0.1", 0, None, http=http)
        )
        async with await connect(gateway) as one, await connect(gateway) as two:
            await one.upgrade("/one")
            await two.upgrade("/two")
            if where == "wait":
                print("ready", flush=True)
            elif where == "outside":
                interrupt()
            elif where == "http":
                async with await connect(gateway) as third:
                    await third.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    await trio.sleep_forever()
            else:
                if where == "feed":
                    interrupt_the_feed()
                await one.send(text("now"))
            await trio.sleep_forever()


before = len(os.listdir("/proc/self/fd"))
interrupted = False
try:
    trio.run(main)
except* KeyboardInterrupt:
    interrupted = True
print(
    json.dumps(
        {
            "interrupted": interrupted,
            "descriptors": len(os.listdir("/proc/self/fd")) - before,
            "handlers ended": sorted(ended) == ["/one", "/two"],
        }
    )
)
