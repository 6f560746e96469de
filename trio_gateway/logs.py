"""What a line of the logs says beside its text: whose connection it is about, how often it came.

In: records of the standard library's logging. Out: the same records with fields, or fewer of them.
The rules: nothing is configured on import; no field and no text of this package holds a token, a
query or what somebody wrote; a storm of the same line costs N lines a second and a sum.

The package logs to ``trio_gateway`` and the loggers below it. A program that configures logging by
itself adds what it wants to its handler::

    handler.addFilter(ConnectionFilter())  # record.connection, .client, .route, .user
    handler.addFilter(Throttle())
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from trio_gateway.handshake.upgrade import Upgrade

SPEAKING_FOR: "ContextVar[Upgrade | None]" = ContextVar("trio_gateway.upgrade", default=None)
"""The upgrade whose handler this task is, or was begun by."""

FIELDS = ("connection", "client", "route", "user")
_MAX_EVENTS = 1_000


def describe(upgrade: "Upgrade") -> dict[str, str]:
    """Return the fields of an upgrade and its connection, as far as they are known."""
    about = {"client": upgrade.client_address, "route": upgrade.route}
    if upgrade.connection is not None:
        about["connection"] = upgrade.connection.id
    if upgrade.identity is not None:
        about["user"] = upgrade.identity.user
    return about


def connection_fields() -> dict[str, str]:
    """Return the fields of the connection that this task serves; none in other tasks."""
    upgrade = SPEAKING_FOR.get()
    return {} if upgrade is None else describe(upgrade)


class ConnectionFilter(logging.Filter):
    """Gives every record ``connection``, ``client``, ``route`` and ``user``; lets all of them pass.

    What the record has already stays; what is not known is ``"-"``, for a format to name.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields."""
        known = connection_fields()
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, known.get(name, "-"))
        return True


@attrs.define
class _Event:
    """One kind of line, in one second."""

    began: float
    seen: int = 0


class Throttle(logging.Filter):
    """Lets the same event pass so many times a second, then counts it.

    The same event: of one logger, at one level, with one text before its arguments are filled in.
    What was held back is told in one line after that second, with ``suppressed`` as its number.

    Arguments:
        per_second: of one event.
        clock: in seconds.
        later: calls a function after so many seconds; by default in a thread of its own, since
            whatever else there is may be what the storm is about.
    """

    def __init__(
        self,
        per_second: int = 20,
        *,
        clock: Callable[[], float] = time.monotonic,
        later: "Callable[[float, Callable[[], None]], None] | None" = None,
    ) -> None:
        super().__init__()
        self._per_second = per_second
        self._clock = clock
        self._later = later or _in_a_thread
        self._lock = threading.Lock()
        self._events: dict[tuple[str, int, str], _Event] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Count a record; return whether it passes."""
        if hasattr(record, "suppressed"):
            return True
        key = (record.name, record.levelno, _text(record))
        now = self._clock()
        held_back: list[tuple[tuple[str, int, str], int]] = []
        with self._lock:
            event = self._events.get(key)
            if event is None or now >= event.began + 1:
                if event is not None or len(self._events) >= _MAX_EVENTS:
                    held_back = self._over(now)
                event = self._events[key] = _Event(now)
            event.seen += 1
            passes = event.seen <= self._per_second
            first = event.seen == self._per_second + 1
        self._tell(held_back)
        if first:
            self._later(1.0, self.summarise)
        return passes

    def summarise(self, *, of_now: bool = False) -> None:
        """Tell what was held back in the seconds that are over; by itself called in time.

        Arguments:
            of_now: in this second too, because the program ends.
        """
        with self._lock:
            held_back = self._over(math.inf if of_now else self._clock())
        self._tell(held_back)

    def _over(self, now: float) -> list[tuple[tuple[str, int, str], int]]:
        """Forget the seconds that are over; return what was held back in them."""
        over = {key: event for key, event in self._events.items() if now >= event.began + 1}
        for key in over:
            del self._events[key]
        # More kinds of lines than these in one second: their counts begin anew.
        if len(self._events) >= _MAX_EVENTS:
            over |= self._events
            self._events.clear()
        counts = ((key, event.seen - self._per_second) for key, event in over.items())
        return [(key, count) for key, count in counts if count > 0]

    @staticmethod
    def _tell(held_back: list[tuple[tuple[str, int, str], int]]) -> None:
        for (name, level, text), count in held_back:
            logging.getLogger(name).log(
                level, "%d more in a second: %s", count, text, extra={"suppressed": count}
            )


def _text(record: logging.LogRecord) -> str:
    # structlog hands its dict of values over in place of a text.
    return str(record.msg.get("event", "")) if isinstance(record.msg, dict) else str(record.msg)


def _in_a_thread(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:
        pass  # no more threads: the next of these lines tells it
