"""What a gateway counts, and a snapshot of it."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import attrs


@attrs.frozen(kw_only=True)
class Statistics:
    """One moment of a gateway.

    Attributes:
        sockets: open sockets, whatever they are doing.
        pending_handshakes: sockets that have not finished their first request.
        pending_upgrades: upgrades whose handler has not decided.
        connections: open WebSocket connections.
        handlers: handler tasks that are running.
        accepted_sockets: sockets accepted since the start.
        upgrades_accepted: upgrades answered with 101.
        upgrades_rejected: upgrades answered with another status, by handlers or the gateway.
        upgrades_abandoned: upgrades whose peer left before the decision.
        duplicate_upgrades_prevented: second decisions that were turned away.
        handler_failures: handlers that ended with an exception.
        http_requests: plain HTTP requests answered.
        refusals: refusals before any upgrade, by status.
        closes: ended connections, by close code.
    """

    sockets: int
    pending_handshakes: int
    pending_upgrades: int
    connections: int
    handlers: int
    accepted_sockets: int
    upgrades_accepted: int
    upgrades_rejected: int
    upgrades_abandoned: int
    duplicate_upgrades_prevented: int
    handler_failures: int
    http_requests: int
    refusals: Mapping[int, int]
    closes: Mapping[int, int]


@attrs.define
class Counters:
    """The running sums behind ``Statistics``."""

    accepted_sockets: int = 0
    upgrades_accepted: int = 0
    upgrades_rejected: int = 0
    upgrades_abandoned: int = 0
    duplicate_upgrades_prevented: int = 0
    handler_failures: int = 0
    http_requests: int = 0
    refusals: Counter[int] = attrs.Factory(Counter)
    closes: Counter[int] = attrs.Factory(Counter)

    def snapshot(
        self,
        *,
        sockets: int,
        pending_handshakes: int,
        pending_upgrades: int,
        connections: int,
        handlers: int,
    ) -> Statistics:
        """Return the sums with these gauges."""
        return Statistics(
            sockets=sockets,
            pending_handshakes=pending_handshakes,
            pending_upgrades=pending_upgrades,
            connections=connections,
            handlers=handlers,
            accepted_sockets=self.accepted_sockets,
            upgrades_accepted=self.upgrades_accepted,
            upgrades_rejected=self.upgrades_rejected,
            upgrades_abandoned=self.upgrades_abandoned,
            duplicate_upgrades_prevented=self.duplicate_upgrades_prevented,
            handler_failures=self.handler_failures,
            http_requests=self.http_requests,
            refusals=MappingProxyType(dict(self.refusals)),
            closes=MappingProxyType(dict(self.closes)),
        )
