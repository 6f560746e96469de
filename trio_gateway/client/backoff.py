"""When to try again.

In: how an attempt ended. Out: seconds to wait. The rule: exponential with full jitter, uniform(0,
min(cap, base · 2ⁿ)), so that the clients of a restarted server don't come back in waves (AWS
Architecture Blog, "Exponential Backoff And Jitter").
"""

import random
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

Uniform = Callable[[float, float], float]
_RETRY = re.compile(r"retry ([0-9]{1,9})\b", re.ASCII)


class Backoff:
    """The waits between attempts, one after the other.

    Arguments:
        base: seconds; the first wait is drawn from 0 to this.
        cap: seconds; the most that is drawn from.
        uniform: draws from a range.

    Attributes:
        failures: attempts that failed since the last ``reset()``.
    """

    def __init__(self, base: float, cap: float, uniform: Uniform = random.uniform) -> None:
        self._base = base
        self._cap = cap
        self._uniform = uniform
        self.failures = 0

    def next(self) -> float:
        """Return the seconds to wait after one more failure."""
        most = min(self._cap, self._base * 2.0 ** min(self.failures, 64))
        self.failures += 1
        return self._uniform(0, most)

    def after(self, told: float, *, jittered: bool) -> float:
        """Return the seconds to wait where the server named some.

        Arguments:
            told: by the server.
            jittered: whether it told each client another time; otherwise jitter is added here. A
                server that tells it again and again is not believed to the letter either.
        """
        if jittered and self.failures == 0:
            self.failures = 1
            return told
        return told + self.next()

    def reset(self) -> None:
        """Begin anew: what was tried has worked."""
        self.failures = 0


def retry_of_close(reason: str | None, most: float) -> float | None:
    """Return the seconds that a 1012's reason asks to wait, ``retry MS``, or None."""
    match = _RETRY.match(reason or "")
    return None if match is None else min(most, int(match[1]) / 1000)


def retry_after(value: str | None, most: float) -> float | None:
    """Return the seconds of a ``Retry-After``, a number or a date (RFC 9110 §10.2.3), or None."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip(), re.ASCII):
        return min(most, float(value))
    try:
        date = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(most, max(0.0, date - time.time()))
