"""The whole application: chat, notifications and the plain HTTP beside them, wired to one hub.

In: a broker and settings. Out: what a gateway needs to serve it all (a router, an HTTP handler, a
hub), or the gateway itself. The rule: this is everything that ``python -m trio_gateway`` serves, so
that a test or another program can serve the same without its process.

::

    application = Application(MemoryBroker(), ApplicationSettings(api_token="…"))
    gateway = application.gateway(await trio.open_tcp_listeners(3000, host="127.0.0.1"))
    await gateway.run()
"""

from collections.abc import Collection, Sequence

import attrs

from trio_gateway.apps.chat import ChatApp, ChatSettings
from trio_gateway.apps.identity import Authenticate, anyone
from trio_gateway.apps.notifications import NotificationApp, NotificationSettings
from trio_gateway.gateway import Gateway
from trio_gateway.http.api import Api
from trio_gateway.http.chain import first_of
from trio_gateway.http.health import Health
from trio_gateway.http.page import Page
from trio_gateway.hub.broker import Broker
from trio_gateway.hub.hub import Hub
from trio_gateway.metrics import Counters, Statistics
from trio_gateway.routing import Router
from trio_gateway.settings import Drain, Heartbeat, Limits, Timeouts
from trio_gateway.transport.listeners import AnyListener


@attrs.frozen(kw_only=True)
class ApplicationSettings:
    """What the application is told.

    Attributes:
        api_token: what clients of the HTTP API show; None turns the API off (403).
        strict_paths: whether a WebSocket path that nobody serves gets a 404 instead of the chat.
        heartbeat: how dead peers are found; clients are told the interval.
        chat: what one chat client may take.
        notifications: what one notification client may take.
    """

    api_token: str | None = attrs.field(default=None, repr=False)
    strict_paths: bool = False
    heartbeat: Heartbeat = attrs.field(factory=Heartbeat)
    chat: ChatSettings = attrs.field(factory=ChatSettings)
    notifications: NotificationSettings = attrs.field(factory=NotificationSettings)


class Application:
    """Chat at ``/``, notifications at ``/notifications/ws``, page, health and API over HTTP.

    Arguments:
        broker: stores and carries what is published.
        settings: what it is told.
        authenticate: who an upgrade is for.

    Attributes:
        hub: to be run beside the gateway; ``gateway()`` sees to it.
        chat: for publishing messages.
        notifications: for publishing notifications.
        router: the handlers by path.
        http: the answers to plain HTTP.
    """

    def __init__(
        self,
        broker: Broker,
        settings: ApplicationSettings | None = None,
        *,
        authenticate: Authenticate = anyone,
    ) -> None:
        settings = settings or ApplicationSettings()
        interval = settings.heartbeat.interval
        self._heartbeat = settings.heartbeat
        self._gateway: Gateway | None = None
        self.hub = Hub(broker)
        self.chat = ChatApp(self.hub, settings.chat, authenticate=authenticate, heartbeat=interval)
        self.notifications = NotificationApp(
            self.hub, settings.notifications, authenticate=authenticate, heartbeat=interval
        )
        self.router = Router()
        self.router.route("/", self.chat.handle)
        self.router.route("/notifications/ws", self.notifications.handle)
        if not settings.strict_paths:
            self.router.fallback(self.chat.handle)
        self.http = first_of(
            Page(),
            Health(unready=self._unready, statistics=self._statistics, hub=self.hub.statistics),
            Api(self.chat, self.notifications, settings.api_token),
        )

    def gateway(
        self,
        listeners: Sequence[AnyListener],
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        drain: Drain | None = None,
        allowed_origins: Collection[str] | None = None,
    ) -> Gateway:
        """Return a gateway that serves the application, to be run once; see ``Gateway``.

        Raises:
            RuntimeError: it has one already.
        """
        if self._gateway is not None:
            raise RuntimeError("this application has its gateway; make an application for each")
        self._gateway = Gateway(
            self.router,
            listeners,
            limits=limits,
            timeouts=timeouts,
            heartbeat=self._heartbeat,
            drain=drain,
            allowed_origins=allowed_origins,
            http=self.http,
            hub=self.hub,
        )
        return self._gateway

    def attach(self, gateway: Gateway) -> None:
        """Report the health of a gateway that was made elsewhere, by ``serve_websocket()``."""
        self._gateway = gateway

    def _unready(self) -> str | None:
        if self._gateway is None:
            return "starting"
        if self._gateway.draining:
            return "draining"
        return None if self._gateway.ready else "starting"

    def _statistics(self) -> Statistics:
        if self._gateway is not None:
            return self._gateway.statistics()
        return Counters().snapshot(
            sockets=0, pending_handshakes=0, pending_upgrades=0, connections=0, handlers=0
        )
