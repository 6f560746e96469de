"""What ends a client for good, and what refuses one of its commands.

::

    GatewayError
    └── ClientError
        ├── UpgradeRefused        the server's: an HTTP status that trying again won't change
        ├── Disconnected          the server's: a close code that asks to stay away
        ├── NotAGateway           whatever answers there speaks something else
        ├── CommandRefused        the server's: one command, nothing was stored
        ├── NotAcknowledged       time is up: a command may or may not have been obeyed
        └── ClientClosed          the caller's: the ``async with`` is over

The rule: what may pass by itself never raises, it is waited for.
"""

from trio_gateway.errors import GatewayError


class ClientError(GatewayError):
    """The root of what a client raises."""


class UpgradeRefused(ClientError):
    """The server answered with an HTTP status that is final.

    Attributes:
        status: the HTTP status.
        message: the server's sentence, or ``""``.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"refused with {self.status}" + (f": {self.message}" if self.message else "")


class Disconnected(ClientError):
    """The server closed the connection with a code that asks not to come back.

    Attributes:
        code: the close code (RFC 6455 §7.4).
        reason: the server's, or ``""``.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"closed with {self.code}" + (f": {self.reason}" if self.reason else "")


class NotAGateway(ClientError):
    """A WebSocket server answered, but not with the frames of a gateway."""


class CommandRefused(ClientError):
    """The server refused one command; nothing was stored and the connection stays.

    Attributes:
        code: for programs, for example ``"invalid_field"``.
        message: one sentence for people.
        field: the field it is about, or None.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(code, message, field)
        self.code = code
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class NotAcknowledged(ClientError):
    """No acknowledgement in time: it may or may not have been stored.

    Attributes:
        key: publish again with this key, and it is stored once; None for what needs no key.
        why: what was in the way last.
    """

    def __init__(self, key: str | None, why: str = "no answer in time") -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        again = "" if self.key is None else f"; publish again with the key {self.key!r}"
        return f"not acknowledged: {self.why}{again}"


class ClientClosed(ClientError):
    """The client's ``async with`` is over."""

    def __str__(self) -> str:
        return "this client is closed; use it inside its async with"
