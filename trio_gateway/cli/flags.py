"""The settings of ``serve``, one by one: flag, variable and key of the file.

In: nothing. Out: ``SETTINGS``, the table of them. The rule: a default stands in the package's own
settings classes, and is only shown here.
"""

import re
from typing import Any

from trio_gateway.cli.kinds import (
    BadValue,
    Choice,
    Paths,
    Seconds,
    Several,
    Switch,
    Text,
    Whole,
    expected,
)
from trio_gateway.cli.sources import Setting
from trio_gateway.handshake import origins
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

_LIMITS, _TIMEOUTS, _HEARTBEAT, _DRAIN = Limits(), Timeouts(), Heartbeat(), Drain()
_RATES, _HUB, _PROXIES, _RETENTION = Rates(), HubLimits(), Proxies(), Retention()


def _network(text: str) -> str:
    return Proxies(trusted=(text,)).trusted[0]


def _host(text: str) -> str:
    text = text[1:-1] if re.fullmatch(r"\[.*\]", text) else text
    if re.fullmatch(r"[!-.0-~]+", text) is None:  # printable ASCII without a space or a slash
        raise ValueError
    return text


def _address(text: str) -> str:
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest and "\0" not in rest:
        return text
    found = re.fullmatch(r"(https?)://(.+):([0-9]{1,5})/?", text)
    if found is None or int(found[3]) > 65535:
        raise ValueError
    host = _host(found[2])
    host = f"[{host}]" if ":" in host else host
    return f"{found[1]}://{host}:{int(found[3])}"


def _token(text: str) -> str:
    # What a header carries unharmed; a superset of RFC 6750 §2.1, b64token.
    if re.fullmatch(r"[!-~]+", text) is None:
        raise ValueError
    return text


def _origin(text: str) -> str:
    try:
        return origins.normal(text)
    except origins.InvalidOrigin as error:
        if error.problem:
            raise BadValue(f"{text!r} is no regular expression: {error.problem}") from None
        raise


def _store(text: str) -> str:
    if re.match(r"rediss?(\+[a-z]+)?://.", text):
        return text  # read where it is used
    kind, _, path = text.partition(":")
    if text != "memory" and (kind != "sqlite" or not path or "\0" in path):
        raise expected("memory, sqlite:PATH or redis://…", text)
    if path == ":memory:":
        raise BadValue("needs a file for sqlite; memory is a store of its own")
    return text


API_TOKEN = Text("TOKEN", "printable ASCII without spaces", _token, secret=True)


def _whole(rate: float | None) -> int:
    return int(rate or 0)


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
        name="listen",
        kind=Several(Text("URL", "http://HOST:PORT, https://HOST:PORT or unix:PATH", _address)),
        default=(),
        help="Listen there, instead of --host, --port and --uds; may be given again.",
    ),
    Setting(
        name="tls-cert",
        kind=Text("FILE", "the path of a PEM file"),
        default=None,
        help="The certificate and its chain, in PEM; read again when it changes.",
    ),
    Setting(
        name="tls-key",
        kind=Text("FILE", "the path of a PEM file"),
        default=None,
        help="The private key of the certificate, in PEM, not encrypted.",
    ),
    Setting(
        name="tls-client-ca",
        kind=Text("FILE", "the path of a PEM file"),
        default=None,
        help="Authorities, in PEM: clients must show a certificate of one of them.",
    ),
    Setting(
        name="store",
        kind=Text("URL", "memory, sqlite:PATH or redis://…", _store),
        default="sqlite:trio-gateway.db",
        shown="sqlite:trio-gateway.db",
        help="Where messages are kept: a SQLite file, made if it is not there; memory, which is "
        "gone with the process; or Redis, for several processes and machines: redis://, rediss://, "
        "redis+unix://, redis+sentinel:// or redis+cluster://.",
    ),
    Setting(
        name="store-synchronous",
        kind=Choice(("normal", "full")),
        default="normal",
        shown="normal",
        help="What survives in a file: with normal, all that was acknowledged if the process is "
        "killed, and all but the last seconds if the machine fails; with full, all in both.",
    ),
    Setting(
        name="history-messages",
        kind=Whole("N"),
        default=_RETENTION.max_publications,
        shown=f"{_RETENTION.max_publications}",
        help="Messages kept of each room, user and topic.",
    ),
    Setting(
        name="history-bytes",
        kind=Whole("BYTES"),
        default=_RETENTION.max_bytes,
        shown=f"{_RETENTION.max_bytes}",
        help="Their size, of each.",
    ),
    Setting(
        name="history-age",
        kind=Seconds(),
        default=_RETENTION.max_age,
        shown=f"{_RETENTION.max_age:g}",
        help="How long they are kept.",
    ),
    Setting(
        name="auth",
        kind=Choice(("none", "jwt")),
        default="none",
        shown="none",
        help="How users are known: none believes ?user=NAME, jwt a signed token.",
    ),
    Setting(
        name="jwt-key",
        kind=Paths(Text("FILE", "the path of a file")),
        default=(),
        help="What tokens are signed with: a public key or certificate in PEM, a JWKS, or a shared "
        "secret; may be given again, and is read again when it changes.",
    ),
    Setting(
        name="jwt-audience",
        kind=Several(Text("NAME", "a name in aud")),
        default=(),
        help="Who a token must be for (aud); may be given again. Without it, tokens that are for "
        "somebody in particular are refused.",
    ),
    Setting(
        name="jwt-issuer",
        kind=Several(Text("NAME", "a name in iss")),
        default=(),
        shown="any",
        help="Who a token must be from (iss); may be given again.",
    ),
    Setting(
        name="jwt-leeway",
        kind=Seconds(zero="for clocks that agree"),
        default=0.0,
        shown="0",
        help="By how much the clocks of issuer and gateway may differ.",
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
        kind=Several(Text("URL", origins.MEANING, _origin)),
        default=(),
        shown="same-host; all with --auth jwt",
        help="Pages that may connect: an origin, http://localhost:* for any port, re:REGEX, "
        "same-host, null, or * for all; may be given again.",
    ),
    Setting(
        name="strict-paths",
        kind=Switch(),
        default=False,
        help="Refuse WebSocket paths that nobody serves, instead of chatting there.",
    ),
    Setting(
        name="page",
        kind=Switch(),
        default=True,
        shown="on",
        help="Serve the browser page at / and its client at /gateway.js.",
    ),
    Setting(
        name="workers",
        kind=Whole("N"),
        default=1,
        shown="1",
        help="Processes, one a core; with more than one, a supervisor keeps them alive, and they "
        "share a redis store.",
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
        help="WebSocket connections at once; with --workers, each takes its share of them.",
    ),
    Setting(
        name="max-connections-per-ip",
        kind=Whole("N"),
        default=_LIMITS.max_connections_per_ip,
        shown="no limit",
        help="The same for one address; each of the --workers counts its own.",
    ),
    Setting(
        name="max-connections-per-user",
        kind=Whole("N"),
        default=None,
        shown=f"{MAX_CONNECTIONS_PER_KNOWN_USER} with --auth jwt, else no limit",
        help="The same for one user; each of the --workers counts its own.",
    ),
    Setting(
        name="ipv6-prefix",
        kind=Whole("BITS", most=128),
        default=_LIMITS.ipv6_prefix,
        shown=f"{_LIMITS.ipv6_prefix}",
        help="How much of an IPv6 address counts as one address.",
    ),
    Setting(
        name="max-rooms",
        kind=Whole("N"),
        default=_HUB.max_topics,
        shown=f"{_HUB.max_topics}",
        help="Rooms, topics and users' streams in use at once, in each of the --workers.",
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
        kind=Whole("N", least=0),
        default=_whole(_RATES.messages_per_second),
        shown=f"{_RATES.messages_per_second:g}",
        help="From one connection, and twice that from one user; twice that may come at once. "
        "More are answered with an error, then closed with 4429. 0 for no limit.",
    ),
    Setting(
        name="bytes-per-second",
        kind=Whole("BYTES", least=0),
        default=_whole(_RATES.bytes_per_second),
        shown=f"{_whole(_RATES.bytes_per_second)}",
        help="In messages of one connection; over it, reading waits. 0 for no limit.",
    ),
    Setting(
        name="joins-per-second",
        kind=Whole("N", least=0),
        default=_whole(_RATES.joins_per_second),
        shown=f"{_RATES.joins_per_second:g}",
        help="Of one connection. 0 for no limit.",
    ),
    Setting(
        name="api-requests-per-second",
        kind=Whole("N", least=0),
        default=_whole(_RATES.api_requests_per_second),
        shown=f"{_RATES.api_requests_per_second:g}",
        help="From one address; more get 429. 0 for no limit.",
    ),
    Setting(
        name="trusted-proxy",
        kind=Several(Text("ADDRESS", "an address, a network (10.0.0.0/8) or unix", _network)),
        default=(),
        shown="none",
        help="A proxy whose Forwarded and X-Forwarded-For are believed; may be given again.",
    ),
    Setting(
        name="proxy-header",
        kind=Choice(("any", "forwarded", "x-forwarded-for")),
        default=_PROXIES.header,
        shown=_PROXIES.header,
        help="Which of the two headers the trusted proxies write.",
    ),
    Setting(
        name="proxy-protocol",
        kind=Switch(),
        default=_PROXIES.protocol,
        help="Every connection begins with a PROXY protocol header, version 2, before TLS.",
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
