"""How much one client of the applications may ask in a second.

In: ``Rates``, and each message, join and API request as it comes. Out: 0, or the seconds after
which it may come. The rules:

- Too many messages are refused, with the error ``rate_limited`` that says when to send them again:
  a message that is only late looks lost, and is sent again. Who pays no heed and has as many
  refused as may come at once is closed with 4429.
- Too many bytes are not refused, for they have been read: reading waits, and TCP tells the sender.
- Nothing here waits, and a limit that is off costs a comparison.
"""

from collections import Counter

from trio_gateway.buckets import Bucket, Buckets, Rate
from trio_gateway.settings import Rates


class ClientLimits:
    """What the clients of one gateway have used.

    Arguments:
        rates: what they may use.

    Attributes:
        counted: what was refused or held up so far, by limit.
    """

    def __init__(self, rates: Rates) -> None:
        self.counted: Counter[str] = Counter()
        burst = rates.burst_seconds
        self.messages = _rate(rates.messages_per_second, burst)
        self.bytes = _rate(rates.bytes_per_second, burst)
        self.joins = _rate(rates.joins_per_second, burst)
        self.of_users = _rate(rates.messages_per_second_per_user, burst)
        self.users = None if self.of_users is None else Buckets(self.of_users)
        api = _rate(rates.api_requests_per_second, burst)
        self._api = None if api is None else Buckets(api)

    def take_api_request(self, address: str, now: float) -> float:
        """Count a request to the HTTP API; return the seconds to wait, or 0."""
        wait = 0.0 if self._api is None else self._api.take(address, now)
        if wait:
            self.counted["api_requests"] += 1
        return wait


class Meter:
    """What one connection has used.

    Arguments:
        limits: what all have, and may have.
        user: whose connection it is.

    Attributes:
        recovery: seconds after which all is as if nothing had been sent.
    """

    __slots__ = ("_bytes", "_joins", "_limits", "_messages", "_refusals", "_user", "recovery")

    def __init__(self, limits: ClientLimits, user: str) -> None:
        self._limits = limits
        self._user = user
        self._messages = _bucket(limits.messages)
        self._bytes = _bucket(limits.bytes)
        self._joins = _bucket(limits.joins)
        rate = limits.messages or limits.of_users
        self._refusals = _bucket(rate)
        self.recovery = 0.0 if rate is None else rate.span

    def take_message(self, now: float) -> float:
        """Count a message; return the seconds after which it may come again, or 0."""
        if self._messages is not None:
            wait = self._messages.take(now)
            if wait:
                self._limits.counted["messages"] += 1
                return wait
        users = self._limits.users
        if users is not None:
            wait = users.take(self._user, now)
            if wait:
                self._limits.counted["messages_per_user"] += 1
                return wait
        return 0.0

    def take_refusal(self, now: float) -> bool:
        """Count a refused message; return whether the client may have more of them."""
        return self._refusals is None or not self._refusals.take(now)

    def spend_bytes(self, now: float, message: str | bytes) -> float:
        """Count the bytes of a message; return the seconds for which reading is to wait, or 0."""
        if self._bytes is None:
            return 0.0
        if isinstance(message, str) and not message.isascii():
            message = message.encode()
        pause = self._bytes.spend(now, len(message))
        if pause:
            self._limits.counted["bytes"] += 1
        return pause

    def take_join(self, now: float) -> float:
        """Count a join; return the seconds after which it may come again, or 0."""
        wait = 0.0 if self._joins is None else self._joins.take(now)
        if wait:
            self._limits.counted["joins"] += 1
        return wait


def _rate(per_second: float | None, burst_seconds: float) -> Rate | None:
    return None if per_second is None else Rate(per_second, per_second * burst_seconds)


def _bucket(rate: Rate | None) -> Bucket | None:
    return None if rate is None else Bucket(rate)
