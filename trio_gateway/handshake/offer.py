"""What an opening handshake offers (RFC 6455 §4.2.1): sans-I/O.

In: the fields of a request. Out: the offer, or nothing where WebSocket isn't asked for. The rule:
the ladder below is climbed in the order of the RFC, one refusal a rung.
"""

import re

import attrs

from trio_gateway.handshake.fields import TCHAR, TOKEN, Fields, Refused, elements_of, names_of

_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
_PARAMETER_VALUE = rb"(?:" + TCHAR + rb'++|"(?:\\?' + TCHAR + rb')++")'
_PARAMETER = TCHAR + rb"++(?:[ \t]*+=[ \t]*+" + _PARAMETER_VALUE + rb")?+"
_EXTENSION = re.compile(TCHAR + rb"++(?:[ \t]*+;[ \t]*+" + _PARAMETER + rb")*+")


@attrs.define
class WebSocketOffer:
    """What the client of a valid opening handshake offers (RFC 6455 §4.2.1).

    Attributes:
        key: the ``Sec-WebSocket-Key``, 24 characters of canonical base64.
        subprotocols: in the client's order of preference, all different.
        extensions: one string an extension, with its parameters, as sent.
    """

    key: bytes
    subprotocols: tuple[str, ...]
    extensions: tuple[str, ...]


def offer_of(
    fields: Fields,
    method: str,
    version: str,
    host: str | None,
    has_body: bool,
) -> WebSocketOffer | None:
    """Climb RFC 6455 §4.2.1; ``None`` when WebSocket isn't asked for (RFC 9110 §7.8)."""
    upgrades = fields.get(b"upgrade")
    if upgrades is None:
        return None
    alone = {value.lower() for value in upgrades} == {b"websocket"}
    if not alone and not any(
        name.partition(b"/")[0] == b"websocket" for name in names_of(upgrades)
    ):
        return None
    if method != "GET":
        raise Refused(405, "websocket_needs_get", "use GET to open a WebSocket", ("Allow", "GET"))
    if version != "1.1":
        raise Refused(505, "websocket_needs_http_1_1", "use HTTP/1.1 to open a WebSocket")
    if not host:
        raise Refused(400, "bad_host", "send Host: NAME[:PORT]")
    if not alone:
        raise Refused(400, "mixed_upgrade", "send Upgrade: websocket, and no other protocol")
    if b"upgrade" not in names_of(fields.get(b"connection", [])):
        raise Refused(400, "connection_without_upgrade", "send Connection: Upgrade")
    if has_body:
        raise Refused(413, "upgrade_with_body", "send no body with an opening handshake")
    versions = fields.get(b"sec-websocket-version")
    if versions is None:
        raise Refused(400, "missing_websocket_version", "send Sec-WebSocket-Version: 13")
    if len(versions) > 1 or b"," in versions[0]:
        raise Refused(400, "duplicate_websocket_version", "send one Sec-WebSocket-Version: 13")
    if versions[0] != b"13":
        raise Refused(
            426,
            "unsupported_websocket_version",
            "use Sec-WebSocket-Version: 13",
            ("Sec-WebSocket-Version", "13"),
        )
    keys = fields.get(b"sec-websocket-key")
    if keys is None:
        raise Refused(400, "missing_websocket_key", "send a Sec-WebSocket-Key")
    if len(keys) > 1:
        raise Refused(400, "duplicate_websocket_key", "send one Sec-WebSocket-Key")
    if not _KEY.fullmatch(keys[0]):
        raise Refused(400, "bad_websocket_key", "send 16 random bytes in base64 as the key")
    return WebSocketOffer(
        keys[0],
        _subprotocols(fields.get(b"sec-websocket-protocol")),
        _extensions(fields.get(b"sec-websocket-extensions")),
    )


def _subprotocols(values: list[bytes] | None) -> tuple[str, ...]:
    """RFC 6455 §4.1, item 10: one or more tokens, all different."""
    if values is None:
        return ()
    names = elements_of(values)
    if not names or None in [TOKEN.fullmatch(name) for name in names]:
        raise Refused(400, "bad_subprotocol", "send Sec-WebSocket-Protocol as a list of tokens")
    if len(set(names)) < len(names):
        raise Refused(400, "duplicate_subprotocol", "offer each subprotocol once")
    return tuple([name.decode("ascii") for name in names])


def _extensions(values: list[bytes] | None) -> tuple[str, ...]:
    """RFC 6455 §9.1: a quoted value must be a token too, so no comma hides in it."""
    if values is None:
        return ()
    extensions = elements_of(values)
    if not extensions or None in [_EXTENSION.fullmatch(extension) for extension in extensions]:
        raise Refused(400, "bad_extension", "send Sec-WebSocket-Extensions as NAME; KEY=VALUE")
    return tuple([extension.decode("ascii") for extension in extensions])
