"""The settings of ``serve``: the table of them, and what the rest of the program gets.

In: the resolved values. Out: a ``ServeOptions``, made of the package's own settings classes, so
that every default is stated where it belongs. The rule: what this build cannot do is said here,
before anything starts.
"""

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from trio_gateway.cli.kinds import (
    BadValue,
    Choice,
    Seconds,
    Several,
    Switch,
    Text,
    Whole,
    expected,
)
from trio_gateway.cli.sources import Given, Setting, resolve
from trio_gateway.settings import Drain, Heartbeat, Limits, Timeouts

NOT_IN_THIS_BUILD = "not in this build"
_LIMITS, _TIMEOUTS, _HEARTBEAT, _DRAIN = Limits(), Timeouts(), Heartbeat(), Drain()
_DEFAULT_PORTS = {"http": 80, "https": 443}


@attrs.frozen(kw_only=True)
class ServeOptions:
    """What ``serve`` was asked for.

    Attributes:
        given: every setting with its origin, for errors that show only when it is used.
        host: the interface to bind.
        port: the port to bind; 0 for a free one.
        tcp: whether to listen on TCP.
        uds: the path of the Unix socket to listen on; None for none.
        tls_cert: the path of the certificate; None for no TLS.
        tls_key: the path of its key.
        api_token: what clients of the HTTP API show, if it was given.
        allowed_origins: where pages may come from; None for anywhere.
        strict_paths: whether WebSocket paths that nobody serves get a 404 instead of the chat.
        limits: from ``--max-…`` and ``--outbox-bytes``.
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
    tls_cert: str | None
    tls_key: str | None
    api_token: str | None = attrs.field(repr=False)
    allowed_origins: tuple[str, ...] | None
    strict_paths: bool
    limits: Limits
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
        tls_cert=value["tls_cert"],
        tls_key=value["tls_key"],
        api_token=value["api_token"],
        allowed_origins=value["allow_origin"] or None,
        strict_paths=value["strict_paths"],
        limits=Limits(
            max_connections=value["max_connections"],
            max_connections_per_ip=value["max_connections_per_ip"],
            max_message_bytes=value["max_message_size"],
            max_outbox_bytes=value["outbox_bytes"],
        ),
        timeouts=Timeouts(handshake_timeout=value["handshake_timeout"]),
        heartbeat=Heartbeat(interval=value["heartbeat"] or math.inf),
        drain=Drain(grace=value["grace"]),
        json_logs=value["log_format"] == "json",
    )


def _refuse_missing_parts(given: Mapping[str, Given]) -> None:
    certificate, key = given["tls_cert"], given["tls_key"]
    if certificate.is_default and not key.is_default:
        raise key.wrong("needs --tls-cert with it")
    if key.is_default and not certificate.is_default:
        raise certificate.wrong("needs --tls-key with it")
    if given["auth"].value != "none":
        raise given["auth"].wrong(f"jwt is {NOT_IN_THIS_BUILD}; use none")
    for field in ("jwt_key", "messages_per_second"):
        if not given[field].is_default:
            raise given[field].wrong(f"is {NOT_IN_THIS_BUILD}; leave it out")
    if given["workers"].value != 1:
        raise given["workers"].wrong(f"more than one is {NOT_IN_THIS_BUILD}; use 1")


def _host(text: str) -> str:
    text = text[1:-1] if re.fullmatch(r"\[.*\]", text) else text
    if re.fullmatch(r"[!-.0-~]+", text) is None:  # printable ASCII without a space or a slash
        raise ValueError
    return text


def _token(text: str) -> str:
    # What a header carries unharmed; a superset of RFC 6750 §2.1, b64token.
    if re.fullmatch(r"[!-~]+", text) is None:
        raise ValueError
    return text


def _origin(text: str) -> str:
    """Return an origin as browsers write it (RFC 6454 §6.2): lower case, no default port."""
    if text == "*":
        return text
    parts = urlsplit(text)
    plain = re.fullmatch(r"[a-z][a-z0-9+.-]*://[!-.0-~]+/?", text, re.IGNORECASE)
    if plain is None or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if parts.port is None or parts.port == _DEFAULT_PORTS.get(parts.scheme):
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{parts.port}"


def _store(text: str) -> str:
    if re.match(r"sqlite:|rediss?://", text):
        raise BadValue(f"{text.partition(':')[0]} is {NOT_IN_THIS_BUILD}; use memory")
    if text != "memory":
        raise expected("memory, sqlite:PATH or redis://…", text)
    return text


API_TOKEN = Text("TOKEN", "printable ASCII without spaces", _token, secret=True)

SETTINGS: tuple[Setting[Any], ...] = (
    Setting(
        name="host",
        kind=Text("HOST", "a host name or an address", _host),
        default="127.0.0.1",
        shown="127.0.0.1",
        help="The interface to listen on; 0.0.0.0 or :: for all.",
    ),
    Setting(
        name="port",
        kind=Whole("PORT", least=0, most=65535),
        default=3000,
        shown="$PORT, or 3000",
        also=("PORT",),
        help="The port; 0 for a free one.",
    ),
    Setting(
        name="uds",
        kind=Text("PATH", "the path of a Unix socket"),
        default=None,
        help="Listen on a Unix socket instead; on TCP too if --port is given.",
    ),
    Setting(
        name="tls-cert",
        kind=Text("FILE", "the path of a PEM file"),
        default=None,
        help="The certificate and its chain, in PEM.",
    ),
    Setting(
        name="tls-key",
        kind=Text("FILE", "the path of a PEM file"),
        default=None,
        help="The private key of the certificate, in PEM, not encrypted.",
    ),
    Setting(
        name="store",
        kind=Text("URL", "memory, sqlite:PATH or redis://…", _store),
        default="memory",
        shown="memory",
        help="Where messages are kept. Only memory is in this build.",
    ),
    Setting(
        name="auth",
        kind=Choice(("none", "jwt")),
        default="none",
        shown="none",
        help="How users are known: none believes ?user=NAME. jwt is not in this build.",
    ),
    Setting(
        name="jwt-key",
        kind=Text("FILE", "the path of a file"),
        default=None,
        help="Not in this build.",
    ),
    Setting(
        name="api-token",
        kind=API_TOKEN,
        default=None,
        help="What clients of the HTTP API show. Without it, one is made where the gateway listens "
        "on loopback only, and the API is off elsewhere.",
    ),
    Setting(
        name="allow-origin",
        kind=Several(Text("URL", "scheme://host[:port] or *", _origin)),
        default=(),
        shown="all",
        help="An origin whose pages may connect; may be given again.",
    ),
    Setting(
        name="strict-paths",
        kind=Switch(),
        default=False,
        help="Refuse WebSocket paths that nobody serves, instead of chatting there.",
    ),
    Setting(
        name="workers",
        kind=Whole("N"),
        default=1,
        shown="1",
        help="Processes. More than one is not in this build.",
    ),
    Setting(
        name="grace",
        kind=Seconds(),
        default=_DRAIN.grace,
        shown=f"{_DRAIN.grace:g}",
        help="How long a drain may take.",
    ),
    Setting(
        name="handshake-timeout",
        kind=Seconds(),
        default=_TIMEOUTS.handshake_timeout,
        shown=f"{_TIMEOUTS.handshake_timeout:g}",
        help="For a client to finish its request.",
    ),
    Setting(
        name="max-connections",
        kind=Whole("N"),
        default=_LIMITS.max_connections,
        shown=f"{_LIMITS.max_connections}",
        help="WebSocket connections at once.",
    ),
    Setting(
        name="max-connections-per-ip",
        kind=Whole("N"),
        default=_LIMITS.max_connections_per_ip,
        shown="no limit",
        help="The same for one address.",
    ),
    Setting(
        name="max-message-size",
        kind=Whole("BYTES"),
        default=_LIMITS.max_message_bytes,
        shown=f"{_LIMITS.max_message_bytes}",
        help="The largest message.",
    ),
    Setting(
        name="messages-per-second",
        kind=Whole("N"),
        default=None,
        help="Not in this build.",
    ),
    Setting(
        name="outbox-bytes",
        kind=Whole("BYTES"),
        default=_LIMITS.max_outbox_bytes,
        shown=f"{_LIMITS.max_outbox_bytes}",
        help="What may wait for a slow client before it is disconnected.",
    ),
    Setting(
        name="heartbeat",
        kind=Seconds(zero="which turns it off"),
        default=_HEARTBEAT.interval,
        shown=f"{_HEARTBEAT.interval:g}",
        help="Silence before a ping; 0 for none.",
    ),
    Setting(
        name="log-format",
        kind=Choice(("console", "json")),
        default="console",
        shown="console",
        help="How logs are written, to stderr.",
    ),
)
