"""trio_gateway: a WebSocket gateway for Trio. One port, one nursery, one upgrade per socket.

::

    listener → head → admission → upgrade → route → handler → hub → outbox → socket
               (bounded, timed)   (once)            (a task)  (sync)  (never awaits)

Bytes come from a source (``transport.pump`` for plain sockets, ``transport.streams`` for all else)
and go, by ``feed()``, to whatever the socket is at that moment: a request head
(``handshake.intake``), a plain HTTP exchange (``http.responder``), an undecided ``Upgrade``, a
``Connection``. A task exists only where a handler runs. What a handler sends, and what the hub
publishes, leaves through the link's outbox, which never waits.

The public names are those of trio-websocket, so that an application switches by changing one
import, and the ones this package adds.
"""

import warnings
from typing import Any

from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    Endpoint,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
    wrap_client_stream,
)

from trio_gateway.connection.connection import Connection
from trio_gateway.errors import (
    AlreadyInitialized,
    CloseCode,
    ConfigurationError,
    DuplicateRoute,
    GatewayError,
    InvalidResponse,
    InvalidRoute,
    ListenerInUse,
    StoreUnavailable,
    UpgradeAbandoned,
    UpgradeAlreadyDecided,
    UpgradeState,
)
from trio_gateway.gateway import Gateway
from trio_gateway.handshake.authentication import Action, Authenticate, Authorize, Identity
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.http.messages import HttpHandler, HttpRequest, HttpResponse
from trio_gateway.metrics import Statistics
from trio_gateway.routing import Handler, Match, Router
from trio_gateway.serving import serve_websocket, wrap_server_stream
from trio_gateway.settings import (
    Compression,
    Drain,
    Heartbeat,
    Limits,
    Proxies,
    Rates,
    Timeouts,
)
from trio_gateway.transport.outbox import Verdict

__version__ = "0.1.0"

WebSocketServer = Gateway

__all__ = [
    "Action",
    "AlreadyInitialized",
    "Authenticate",
    "Authorize",
    "CloseCode",
    "CloseReason",
    "Compression",
    "ConfigurationError",
    "Connection",
    "ConnectionClosed",
    "ConnectionRejected",
    "ConnectionTimeout",
    "DisconnectionTimeout",
    "Drain",
    "DuplicateRoute",
    "Endpoint",
    "Gateway",
    "GatewayError",
    "Handler",
    "HandshakeError",
    "Heartbeat",
    "HttpHandler",
    "HttpRequest",
    "HttpResponse",
    "Identity",
    "InvalidResponse",
    "InvalidRoute",
    "Limits",
    "ListenerInUse",
    "Match",
    "Proxies",
    "Rates",
    "Refusal",
    "Router",
    "Statistics",
    "StoreUnavailable",
    "Timeouts",
    "Upgrade",
    "UpgradeAbandoned",
    "UpgradeAlreadyDecided",
    "UpgradeState",
    "Verdict",
    "WebSocketConnection",
    "WebSocketRequest",
    "WebSocketServer",
    "__version__",
    "connect_websocket",
    "connect_websocket_url",
    "initialize_notification_server",
    "open_websocket",
    "open_websocket_url",
    "serve_websocket",
    "wrap_client_stream",
    "wrap_server_stream",
]


def initialize_notification_server(*_args: Any, **_kwargs: Any) -> None:
    """Do nothing: notifications are a route of the one gateway.

    Kept for callers of the original application, where it attached a second WebSocket server to the
    HTTP server, and both upgraded the same socket.

    .. deprecated:: 0.1.0
    """
    warnings.warn(
        "initialize_notification_server() does nothing: notifications are served by the gateway "
        "at /notifications/ws; remove the call",
        DeprecationWarning,
        stacklevel=2,
    )
