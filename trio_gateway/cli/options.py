"""What ``serve`` was asked for, as the rest of the program gets it.

In: the resolved settings. Out: a ``ServeOptions``, made of the package's own settings classes. The
rule: what this build cannot do is said here, before anything starts.
"""

import math
from collections.abc import Mapping
from typing import Any

import attrs

from trio_gateway.cli.flags import SETTINGS
from trio_gateway.cli.sources import Given, resolve
from trio_gateway.hub.broker import Retention
from trio_gateway.hub.values import HubLimits
from trio_gateway.settings import (
    MAX_CONNECTIONS_PER_KNOWN_USER,
    Drain,
    Heartbeat,
    Limits,
    Proxies,
    Rates,
    Timeouts,
)


@attrs.frozen(kw_only=True)
class TokenOptions:
    """What ``--auth jwt`` was told.

    Attributes:
        keys: the paths of the key files, one at least.
        audience: one of them must be in ``aud``; empty for none.
        issuer: ``iss`` must be one of them; empty for any.
        leeway: seconds by which clocks may differ.
    """

    keys: tuple[str, ...]
    audience: tuple[str, ...]
    issuer: tuple[str, ...]
    leeway: float


@attrs.frozen(kw_only=True)
class ServeOptions:
    """What ``serve`` was asked for.

    Attributes:
        given: every setting with its origin, for errors that show only when it is used.
        host: the interface to bind.
        port: the port to bind; 0 for a free one.
        tcp: whether to listen on TCP.
        uds: the path of the Unix socket to listen on; None for none.
        listen: addresses to listen on instead of all these; empty for none.
        tls_cert: the path of the certificate; None for no TLS.
        tls_key: the path of its key.
        tls_client_ca: the path of the authorities of clients' certificates; None asks for none.
        workers: how many processes serve.
        store: ``memory`` or ``sqlite:PATH``.
        store_synchronous: ``normal`` or ``full``; see ``hub.sqlite``.
        retention: from ``--history-…``.
        api_token: what clients of the HTTP API show, if it was given.
        tokens: how tokens are checked; None where users are who they say.
        allowed_origins: where pages may come from; None for what suits ``tokens``.
        strict_paths: whether WebSocket paths that nobody serves get a 404 instead of the chat.
        page: whether the browser page is served.
        limits: from ``--max-…`` and ``--outbox-bytes``.
        rates: from ``--…-per-second``.
        hub: from ``--max-rooms``.
        proxies: from ``--trusted-proxy``, ``--proxy-header`` and ``--proxy-protocol``.
        timeouts: from ``--handshake-timeout``.
        heartbeat: from ``--heartbeat``.
        drain: from ``--grace``.
        json_logs: whether logs are for programs.
    """

    given: Mapping[str, Given] = attrs.field(repr=False)
    host: str
    port: int
    tcp: bool
    uds: str | None
    listen: tuple[str, ...]
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    workers: int
    store: str
    store_synchronous: str
    retention: Retention
    api_token: str | None = attrs.field(repr=False)
    tokens: TokenOptions | None
    allowed_origins: tuple[str, ...] | None
    strict_paths: bool
    page: bool
    limits: Limits
    rates: Rates
    hub: HubLimits
    proxies: Proxies
    timeouts: Timeouts
    heartbeat: Heartbeat
    drain: Drain
    json_logs: bool


def serve_options(flags: Mapping[str, Any], environ: Mapping[str, str]) -> ServeOptions:
    """Return what was asked for.

    Arguments:
        flags: click's parameters by field; None for what was not given.
        environ: the environment.

    Raises:
        ConfigurationError: something is wrong; the message names where.
    """
    given = resolve(SETTINGS, flags, environ)
    _refuse_missing_parts(given)
    value = {field: found.value for field, found in given.items()}
    port = given["port"]
    return ServeOptions(
        given=given,
        host=value["host"],
        port=port.value,
        # A Unix socket stands alone unless a port was asked for too; $PORT asks for nothing.
        tcp=value["uds"] is None or not (port.is_default or port.ambient),
        uds=value["uds"],
        listen=value["listen"],
        tls_cert=value["tls_cert"],
        tls_key=value["tls_key"],
        tls_client_ca=value["tls_client_ca"],
        workers=value["workers"],
        store=value["store"],
        store_synchronous=value["store_synchronous"],
        retention=Retention(
            max_publications=value["history_messages"],
            max_bytes=value["history_bytes"],
            max_age=value["history_age"],
        ),
        api_token=value["api_token"],
        tokens=_tokens(value),
        allowed_origins=value["allow_origin"] or None,
        strict_paths=value["strict_paths"],
        page=value["page"],
        limits=Limits(
            max_connections=value["max_connections"],
            max_connections_per_ip=value["max_connections_per_ip"],
            max_connections_per_user=value["max_connections_per_user"]
            or (None if value["auth"] == "none" else MAX_CONNECTIONS_PER_KNOWN_USER),
            ipv6_prefix=value["ipv6_prefix"],
            max_message_bytes=value["max_message_size"],
            max_outbox_bytes=value["outbox_bytes"],
        ),
        rates=_rates(value),
        hub=HubLimits(max_topics=value["max_rooms"]),
        proxies=Proxies(
            trusted=value["trusted_proxy"],
            header=value["proxy_header"],
            protocol=value["proxy_protocol"],
        ),
        timeouts=Timeouts(handshake_timeout=value["handshake_timeout"]),
        heartbeat=Heartbeat(interval=value["heartbeat"] or math.inf),
        drain=Drain(grace=value["grace"]),
        json_logs=value["log_format"] == "json",
    )


def _tokens(value: Mapping[str, Any]) -> TokenOptions | None:
    if value["auth"] == "none":
        return None
    return TokenOptions(
        keys=value["jwt_key"],
        audience=value["jwt_audience"],
        issuer=value["jwt_issuer"],
        leeway=value["jwt_leeway"],
    )


def _rates(value: Mapping[str, Any]) -> Rates:
    messages = value["messages_per_second"]
    return Rates(
        messages_per_second=messages or None,
        # A user may be on a few devices at once, and types on one.
        messages_per_second_per_user=2 * messages or None,
        bytes_per_second=value["bytes_per_second"] or None,
        joins_per_second=value["joins_per_second"] or None,
        api_requests_per_second=value["api_requests_per_second"] or None,
    )


def _refuse_missing_parts(given: Mapping[str, Given]) -> None:
    certificate, key = given["tls_cert"], given["tls_key"]
    if certificate.is_default and not key.is_default:
        raise key.wrong("needs --tls-cert with it")
    if key.is_default and not certificate.is_default:
        raise certificate.wrong("needs --tls-key with it")
    if given["auth"].value == "none":
        for field in ("jwt_key", "jwt_audience", "jwt_issuer", "jwt_leeway"):
            if not given[field].is_default:
                raise given[field].wrong("needs --auth jwt with it")
    elif not given["jwt_key"].value:
        raise given["auth"].wrong("jwt needs --jwt-key with it")
    header = given["proxy_header"]
    if not header.is_default and not given["trusted_proxy"].value:
        raise header.wrong("needs --trusted-proxy with it")
    client_ca, listen = given["tls_client_ca"], given["listen"]
    if not client_ca.is_default and certificate.is_default:
        raise client_ca.wrong("needs --tls-cert with it")
    if listen.value:
        _refuse_two_ways_to_listen(given)
    store = given["store"].value
    if given["workers"].value > 1 and not is_shared(store):
        raise given["workers"].wrong(
            f"more than one needs a store that they share, and {store.partition(':')[0]} serves "
            "one process; use --store redis://…, or 1"
        )
    connections = given["max_connections"]
    if connections.value < given["workers"].value:
        raise connections.wrong("is shared out to the --workers, at least one to each")


def _refuse_two_ways_to_listen(given: Mapping[str, Given]) -> None:
    listen = given["listen"]
    for field in ("host", "port", "uds"):
        if not (given[field].is_default or given[field].ambient):
            raise given[field].wrong("cannot be given beside --listen; name all addresses there")
    if given["tls_cert"].is_default and any(url.startswith("https:") for url in listen.value):
        raise listen.wrong("https needs --tls-cert and --tls-key with it")
    if len(set(listen.value)) != len(listen.value):
        raise listen.wrong("names one address twice")


def share_out(limits: Limits, number: int, workers: int) -> Limits:
    """Return the limits of one of several workers: their ``max_connections`` add up to the whole.

    Arguments:
        limits: of all.
        number: the worker's, from 1.
        workers: how many there are, not more than connections.
    """
    share, rest = divmod(limits.max_connections, workers)
    share += number <= rest
    return attrs.evolve(limits, max_connections=share, gives_way=workers > 1)


def is_shared(store: str) -> bool:
    """Return whether several processes can meet in a store."""
    return store.startswith(("redis:", "rediss:", "redis+", "rediss+"))
