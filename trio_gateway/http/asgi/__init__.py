"""An ASGI application beside the WebSockets, on the same port (ASGI 3, HTTP and lifespan).

In: plain HTTP requests, each judged by our own reader of heads and by h11. Out: calls of the
application, and its answers, streamed both ways. The rules: the application never sees a WebSocket
(the router has those) nor a byte of HTTP; whatever it does stays with the one request; its socket
serves the next request, or an upgrade, when the answer is complete. ::

    await serve_websocket(router, "127.0.0.1", 8000, None, http=Starlette(routes=...))
"""

from trio_gateway.http.asgi.application import AsgiApp, as_http, asgi
from trio_gateway.http.asgi.response import ClientGone

__all__ = ["AsgiApp", "ClientGone", "as_http", "asgi"]
