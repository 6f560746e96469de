"""For tests: gateways without sockets, where no second passes for real.

In: a handler, a router or an application. Out: the means to try it: ``gateways`` (memory streams
and ``open_gateway()``), ``network`` (virtual TCP: the path of real sockets, and all that a network
does to a connection) and, for a broker of one's own, ``broker`` (a machine that holds it to its
contract; needs ``hypothesis``, and is imported by its name). The rules: a connection fails the way
TCP does; under a ``trio.testing.MockClock`` every timeout takes no time; leaving an ``async with``
ends whatever it began.
"""

from trio_gateway.testing.gateways import (
    MemoryListener,
    MemoryReceiver,
    MemorySender,
    MemoryStream,
    OpenGateway,
    open_gateway,
)
from trio_gateway.testing.network import (
    Conditions,
    VirtualListener,
    VirtualNet,
    VirtualPoller,
    VirtualSocket,
    VirtualStream,
    VirtualStreamListener,
)

__all__ = [
    "Conditions",
    "MemoryListener",
    "MemoryReceiver",
    "MemorySender",
    "MemoryStream",
    "OpenGateway",
    "VirtualListener",
    "VirtualNet",
    "VirtualPoller",
    "VirtualSocket",
    "VirtualStream",
    "VirtualStreamListener",
    "open_gateway",
]
