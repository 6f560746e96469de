"""The exceptions, and whose fault each one is.

::

    Exception
    ├── trio_websocket.ConnectionClosed          the peer's, or the end of a connection
    │   └── UpgradeAbandoned                     the peer left before the decision
    └── GatewayError
        ├── UpgradeAlreadyDecided                the caller's: a socket is upgraded at most once
        │   └── UpgradeAbandoned
        ├── InvalidResponse (ValueError)         the caller's: an answer that may not be sent
        ├── InvalidRoute (ValueError)            the caller's: a pattern that cannot be read
        │   └── DuplicateRoute                   the caller's: two handlers for one path
        ├── ListenerInUse                        the caller's: one listener, one gateway
        ├── AlreadyInitialized                   the caller's: one gateway, one start
        ├── wire.InvalidField (ValueError)       the client's or the caller's: a field of a command
        ├── ConfigurationError (ValueError)      the operator's: a flag, a variable, a file
        ├── AppStartupFailed                     the ASGI application's: it did not start
        └── StoreUnavailable                     the store's: try again later

What a peer sends never raises: it becomes a ``Refusal`` or a close code.
"""

import enum

from trio_websocket import CloseReason, ConnectionClosed


class UpgradeState(enum.Enum):
    """Where an upgrade stands; the last three are final."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    ABANDONED = "abandoned"


class CloseCode(enum.IntEnum):
    """Close codes this package sends (RFC 6455 §7.4.1, the IANA registry, and our 44xx)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    TOKEN_EXPIRED = 4401
    FORBIDDEN = 4403
    IDLE = 4408
    RATE = 4429


class GatewayError(Exception):
    """The root of this package's own exceptions."""


class UpgradeAlreadyDecided(GatewayError):
    """A second decision on one upgrade; no byte was written.

    Attributes:
        state: the decision that stands.
    """

    def __init__(self, state: UpgradeState) -> None:
        super().__init__(state)
        self.state = state

    def __str__(self) -> str:
        return (
            f"this upgrade is already {self.state.value}; a socket is upgraded at most once, "
            "so decide in one place"
        )


class UpgradeAbandoned(UpgradeAlreadyDecided, ConnectionClosed):
    """The peer was gone before the upgrade was decided; no byte was written."""

    def __init__(self) -> None:
        super().__init__(UpgradeState.ABANDONED)
        self.reason = CloseReason(CloseCode.ABNORMAL, "the peer left during the handshake")

    def __str__(self) -> str:
        return "the peer left before the upgrade was decided"


class InvalidResponse(GatewayError, ValueError):
    """An answer to an upgrade that may not be sent; no byte was written, the token is unspent."""


class InvalidRoute(GatewayError, ValueError):
    """A route pattern that cannot be read."""


class DuplicateRoute(InvalidRoute):
    """Two handlers for one path.

    Attributes:
        pattern: the route.
        first: where it was first added, ``file:line``.
        second: where it was added again.
    """

    def __init__(self, pattern: str, first: str, second: str) -> None:
        super().__init__(pattern, first, second)
        self.pattern = pattern
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return (
            f"route {self.pattern!r} at {self.second} was already added at {self.first}; "
            "one path has one handler"
        )


class ListenerInUse(GatewayError):
    """A listener that a gateway already serves.

    Attributes:
        listener: what was to be served, for people.
        first: where it is being served, ``file:line``.
    """

    def __init__(self, listener: str, first: str) -> None:
        super().__init__(listener, first)
        self.listener = listener
        self.first = first

    def __str__(self) -> str:
        return (
            f"{self.listener} is already served by the gateway started at {self.first}; "
            "add a route there instead of a second server"
        )


class AlreadyInitialized(GatewayError):
    """A gateway initialised or run a second time.

    Attributes:
        first: where it was initialised first, ``file:line``.
    """

    def __init__(self, first: str) -> None:
        super().__init__(first)
        self.first = first

    def __str__(self) -> str:
        return f"this gateway was already initialised at {self.first}; initialise it once"


class ConfigurationError(GatewayError, ValueError):
    """A setting from the command line, the environment or a file that cannot be used."""


class AppStartupFailed(GatewayError):
    """The ASGI application beside the gateway did not start; nobody was served.

    Attributes:
        reason: what it said; its exception, if there was one, is the ``__cause__``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the ASGI application's startup failed: {self.reason or 'it does not say why'}"


class StoreUnavailable(GatewayError):
    """The store cannot be reached or written now; nothing was acknowledged."""
