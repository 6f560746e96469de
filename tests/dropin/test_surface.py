"""The public names: all of trio-websocket's, each ours or left to them on purpose, and pinned."""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import trio_websocket

import trio_gateway
from trio_gateway import Connection, Gateway, Upgrade

PUBLIC = [
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

REPLACED = {"WebSocketServer", "__version__", "serve_websocket", "wrap_server_stream"}
"""Names of trio-websocket that stand for something of ours."""

INHERITED: dict[type, set[str]] = {
    # One counter for both packages' connections: their names tell them apart in one log.
    Connection: {"CONNECTION_ID"},
    Upgrade: set(),
    Gateway: set(),
}
"""What is left to the base class on purpose; it may touch nothing that its __init__ makes."""

CLASSES: dict[type, type] = {
    Connection: trio_websocket.WebSocketConnection,
    Upgrade: trio_websocket.WebSocketRequest,
    Gateway: trio_websocket.WebSocketServer,
}

each_class = pytest.mark.parametrize(
    "ours, theirs", CLASSES.items(), ids=lambda each: each.__name__
)


def exported(module: ModuleType) -> set[str]:
    """Return the public names of a module, without its submodules."""
    return {
        name
        for name, value in vars(module).items()
        if (not name.startswith("_") or name == "__version__") and not isinstance(value, ModuleType)
    }


def test_the_public_names_are_pinned() -> None:
    """A name that comes or goes is a decision, and an entry in the CHANGELOG."""
    assert PUBLIC == trio_gateway.__all__
    assert PUBLIC == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(trio_gateway))


def test_every_public_name_is_meant() -> None:
    """Nothing can be imported from the package by accident."""
    accidental = exported(trio_gateway) - set(PUBLIC)
    assert accidental <= {"Any"}


def test_every_name_of_trio_websocket_is_there() -> None:
    """Changing the import line is all; what we don't replace is the same object."""
    names = exported(trio_websocket)
    assert names >= {"serve_websocket", "open_websocket", "ConnectionClosed", "WebSocketRequest"}
    assert names <= set(PUBLIC)
    for name in names - REPLACED:
        assert getattr(trio_gateway, name) is getattr(trio_websocket, name)
    for name in REPLACED:
        assert getattr(trio_gateway, name) is not getattr(trio_websocket, name)


@each_class
def test_instances_pass_for_theirs(ours: type, theirs: type) -> None:
    """``isinstance`` holds in an application that asks."""
    assert issubclass(ours, theirs)


@each_class
def test_every_public_name_of_theirs_is_ours(ours: type, theirs: type) -> None:
    """Their ``__init__`` is never called, so none of their methods may run on our objects."""
    public = {
        name
        for base in theirs.__mro__
        if base.__module__.startswith("trio_websocket")
        for name in vars(base)
        if not name.startswith("_")
    }
    assert public
    own = {
        name
        for base in ours.__mro__
        if base.__module__.startswith("trio_gateway")
        for name in vars(base)
    }
    assert public - own == INHERITED[ours]
    assert "__init__" in own


def test_the_text_of_a_connection_is_ours() -> None:
    """``str(connection)`` reads what their ``__init__`` makes."""
    assert "__str__" in vars(Connection)


METHODS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    name: (getattr(ours, name), getattr(theirs, name))
    for ours, theirs in CLASSES.items()
    for name in ("accept", "reject", "aclose", "get_message", "ping", "pong", "send_message", "run")
    if hasattr(theirs, name)
}
SIGNATURES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "serve_websocket": (trio_gateway.serve_websocket, trio_websocket.serve_websocket),
    "wrap_server_stream": (trio_gateway.wrap_server_stream, trio_websocket.wrap_server_stream),
    "WebSocketServer": (Gateway, trio_websocket.WebSocketServer),
    **METHODS,
}


@pytest.mark.parametrize("ours, theirs", SIGNATURES.values(), ids=SIGNATURES.keys())
def test_every_argument_of_theirs_is_taken(
    ours: Callable[..., Any], theirs: Callable[..., Any]
) -> None:
    """In the same place and of the same kind; what is new can be left out and has a name."""
    ours_by_name = inspect.signature(ours).parameters
    theirs_by_name = inspect.signature(theirs).parameters
    places = {name: at for at, name in enumerate(ours_by_name)}
    for at, (name, parameter) in enumerate(theirs_by_name.items()):
        own = ours_by_name[name]
        assert own.kind == parameter.kind
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            assert places[name] == at
        if parameter.default is inspect.Parameter.empty:
            assert own.default is inspect.Parameter.empty
        else:
            assert own.default is not inspect.Parameter.empty
    for name in ours_by_name.keys() - theirs_by_name.keys():
        assert ours_by_name[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert ours_by_name[name].default is not inspect.Parameter.empty
