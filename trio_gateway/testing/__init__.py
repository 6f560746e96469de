"""For tests: gateways without sockets, where no second passes for real.

In: a handler, a router or an application. Out: the means to try it: ``gateways`` (memory streams and
``open_gateway()``). The rules: a connection fails the way TCP does; under a
``trio.testing.MockClock`` every timeout takes no time; leaving an ``async with`` ends whatever it
began.
"""

from trio_gateway.testing.gateways import (
    MemoryListener,
    MemoryReceiver,
    MemorySender,
    MemoryStream,
    OpenGateway,
    open_gateway,
)

__all__ = [
    "MemoryListener",
    "MemoryReceiver",
    "MemorySender",
    "MemoryStream",
    "OpenGateway",
    "open_gateway",
]
