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
from typing import Any

import attrs
import trio

from trio_gateway.apps.chat import ChatApp, ChatSettings
from trio_gateway.apps.identity import Authenticate, Authorize, by_claims, vouched_for
from trio_gateway.apps.limits import ClientLimits
from trio_gateway.apps.notifications import NotificationApp, NotificationSettings
from trio_gateway.gateway import Gateway
from trio_gateway.handshake.authentication import default_origins
from trio_gateway.http.admin import Admin
from trio_gateway.http.api import Api
from trio_gateway.http.chain import first_of
from trio_gateway.http.door import Door
from trio_gateway.http.ensemble import Ensemble
from trio_gateway.http.health import Health
from trio_gateway.http.metrics import Metrics, Sources
from trio_gateway.http.page import Page
from trio_gateway.hub.broker import Broker, Watched
from trio_gateway.hub.hub import Hub, HubLimits
from trio_gateway.metrics import Counters, Statistics, process_statistics
from trio_gateway.routing import Router
from trio_gateway.settings import Drain, Heartbeat, Limits, Proxies, Rates, Timeouts
from trio_gateway.transport.addresses import owned_by
from trio_gateway.transport.listeners import AnyListener


@attrs.frozen(kw_only=True)
class ApplicationSettings:
    """What the application is told.

    Attributes:
        api_token: what clients of the HTTP API show; None turns the API off (403).
        strict_paths: whether a WebSocket path that nobody serves gets a 404 instead of the chat.
        page: whether the browser page and its client are served, at ``/`` and ``/gateway.js``.
        tokens: whether the page asks its user for a token, which ``authenticate`` then wants.
        heartbeat: how dead peers are found; clients are told the interval.
        chat: what one chat client may take.
        notifications: what one notification client may take.
        rates: what one client may ask in a second.
        hub: what all rooms and topics together may take.
    """

    api_token: str | None = attrs.field(default=None, repr=False)
    strict_paths: bool = False
    page: bool = True
    tokens: bool = False
    heartbeat: Heartbeat = attrs.field(factory=Heartbeat)
    chat: ChatSettings = attrs.field(factory=ChatSettings)
    notifications: NotificationSettings = attrs.field(factory=NotificationSettings)
    rates: Rates = attrs.field(factory=Rates)
    hub: HubLimits = attrs.field(factory=HubLimits)


class Application:
    """Chat at ``/``, notifications at ``/notifications/ws``, page, health and API over HTTP.

    Arguments:
        broker: stores and carries what is published.
        settings: what it is told.
        authenticate: who an upgrade is for; by default who the gateway says, or who they say.
        authorize: what they may do; by default what the claims of their token leave.

    Attributes:
        hub: to be run beside the gateway; ``gateway()`` sees to it.
        chat: for publishing messages.
        notifications: for publishing notifications.
        router: the handlers by path.
        http: the answers to plain HTTP.
        metrics: those to ``/metrics``; its ``registry`` takes metrics of the program's own.
        admin: those to the operator's part of the HTTP API.
        ensemble: the processes that the last two speak for.
    """

    def __init__(
        self,
        broker: Broker,
        settings: ApplicationSettings | None = None,
        *,
        authenticate: Authenticate = vouched_for,
        authorize: Authorize = by_claims,
    ) -> None:
        settings = settings or ApplicationSettings()
        interval = settings.heartbeat.interval
        self._heartbeat = settings.heartbeat
        self._origins = default_origins(authenticate)
        self._gateway: Gateway | None = None
        self._limits = ClientLimits(settings.rates)
        self._ipv6_prefix = Limits().ipv6_prefix
        self.hub = Hub(broker, limits=settings.hub)
        self.chat = ChatApp(
            self.hub,
            settings.chat,
            authenticate=authenticate,
            authorize=authorize,
            heartbeat=interval,
            limits=self._limits,
        )
        self.notifications = NotificationApp(
            self.hub,
            settings.notifications,
            authenticate=authenticate,
            authorize=authorize,
            heartbeat=interval,
            limits=self._limits,
        )
        self.router = Router()
        self.router.route("/", self.chat.handle)
        self.router.route("/notifications/ws", self.notifications.handle)
        if not settings.strict_paths:
            self.router.fallback(self.chat.handle)
        door = Door(settings.api_token, limit=self._limit_api)
        self.ensemble = Ensemble()
        self.admin = Admin(lambda: self._gateway, self._all_statistics, door, self.ensemble)
        self.admin.elsewhere = self.hub.disconnect_user
        self.metrics = Metrics(
            Sources(
                gateway=self.statistics,
                hub=self.hub.statistics,
                store=self._store,
                api=lambda: (door.requests, self.admin.disconnected),
                ready=lambda: self._unready() is None,
            ),
            self.ensemble,
        )
        self.http = first_of(
            *([Page("jwt" if settings.tokens else "none")] if settings.page else []),
            Health(unready=self._unready),
            self.metrics,
            Api(self.chat, self.notifications, door),
            self.admin,
        )

    def gateway(
        self,
        listeners: Sequence[AnyListener],
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        drain: Drain | None = None,
        allowed_origins: Collection[str] | None = None,
        proxies: Proxies | None = None,
    ) -> Gateway:
        """Return a gateway that serves the application, to be run once; see ``Gateway``.

        Without ``allowed_origins`` pages of the same host may connect, and those of others where
        ``authenticate`` reads nothing that a browser sends unasked.

        Raises:
            RuntimeError: it has one already.
        """
        if self._gateway is not None:
            raise RuntimeError("this application has its gateway; make an application for each")
        limits = limits or Limits()
        self._ipv6_prefix = limits.ipv6_prefix
        self._gateway = Gateway(
            self.router,
            listeners,
            limits=limits,
            timeouts=timeouts,
            heartbeat=self._heartbeat,
            drain=drain,
            allowed_origins=self._origins if allowed_origins is None else allowed_origins,
            proxies=proxies,
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
        if not self._gateway.ready:
            return "starting"
        return None if self._store_available() else "store_unavailable"

    def _store_available(self) -> bool:
        broker = self.hub.broker
        return not isinstance(broker, Watched) or broker.available

    def _store(self) -> tuple[bool, Any]:
        tell = getattr(self.hub.broker, "statistics", None)  # a broker need not have it
        return self._store_available(), None if tell is None else tell()

    def _all_statistics(self) -> dict[str, Any]:
        available, store = self._store()
        return {
            "gateway": self.statistics(),
            "hub": self.hub.statistics(),
            "store": {"available": available, **({} if store is None else attrs.asdict(store))},
            "process": process_statistics(),
        }

    def statistics(self) -> Statistics:
        """Return what the gateway holds and has counted, with what its clients' limits have."""
        if self._gateway is None:
            statistics = Counters().snapshot(
                sockets=0, pending_handshakes=0, pending_upgrades=0, connections=0, handlers=0
            )
        else:
            statistics = self._gateway.statistics()
        return attrs.evolve(statistics, limited={**statistics.limited, **self._limits.counted})

    def _limit_api(self, address: str) -> float:
        owner = owned_by(address, self._ipv6_prefix)
        return self._limits.take_api_request(owner, trio.current_time())
