"""Whether to come back, and as whom.

In: how a connection ended. Out: ``Lost``, with the wait that the server asks for, or the exception
that ends the client. The rule: the close code table of the wire page; a refused token is never
shown twice.
"""

import json
import re

from trio_websocket import CloseReason, ConnectionRejected

from trio_gateway.client.backoff import retry_after, retry_of_close
from trio_gateway.client.errors import ClientError, Disconnected, UpgradeRefused
from trio_gateway.client.link import Lost
from trio_gateway.client.options import Token
from trio_gateway.errors import CloseCode

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_FINAL_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, CloseCode.FORBIDDEN})
_PASSING_STATUS = frozenset({408, 425, 429})


class Judge:
    """Holds the token and what became of it.

    Arguments:
        token: shown as a bearer token; a callable is asked for each connection.
        max_retry: seconds, the most that a server can ask to wait.
    """

    def __init__(self, token: Token | None, max_retry: float) -> None:
        self._token = token
        self._max_retry = max_retry
        self._shown: str | None = None
        self._refused: tuple[str | None, ClientError] | None = None

    def live(self) -> None:
        """The token was good."""
        self._refused = None

    async def authorization(self) -> list[tuple[bytes, bytes]]:
        """Return the header for the next connection; raises what refused the only token."""
        token = self._token
        if token is None:
            return []
        self._shown = token if isinstance(token, str) else await token()
        if _TOKEN.fullmatch(self._shown) is None:
            raise ValueError("the token has characters that no bearer token has (RFC 6750 §2.1)")
        if self._refused is not None and self._refused[0] == self._shown:
            raise self._refused[1]
        return [(b"Authorization", b"Bearer " + self._shown.encode())]

    def status(self, rejected: ConnectionRejected) -> Lost:
        """Return why to try again; raises UpgradeRefused where that is no use."""
        status = rejected.status_code
        refusal = UpgradeRefused(status, _message_of(rejected.body))
        if status == 401 and self._may_renew(refusal):
            return Lost(str(refusal))
        if status not in _PASSING_STATUS and status < 500:
            raise refusal
        headers = {name.lower(): value.decode("latin-1") for name, value in rejected.headers}
        told = retry_after(headers.get(b"retry-after"), self._max_retry)
        return Lost(str(refusal), told)

    def close(self, closed: CloseReason | None) -> Lost:
        """Return why to try again; raises Disconnected where the server asks not to."""
        if closed is None:
            return Lost("the connection broke")
        code, reason = int(closed.code), closed.reason or ""
        end = Disconnected(code, reason)
        if code in _FINAL_CODES or (code == CloseCode.TOKEN_EXPIRED and not self._may_renew(end)):
            raise end
        if code == CloseCode.ABNORMAL:
            return Lost("the connection broke")
        told = retry_of_close(reason, self._max_retry)
        return Lost(str(end), told, jittered=code == CloseCode.SERVICE_RESTART)

    def _may_renew(self, refusal: ClientError) -> bool:
        """Remember that the token was refused; return whether there may be another."""
        if not callable(self._token) or self._refused is not None:
            return False
        self._refused = self._shown, refusal
        return True


def _message_of(body: bytes | None) -> str:
    """Return the sentence of a gateway's refusal."""
    try:
        refusal = json.loads(body or b"")
    except (ValueError, RecursionError):
        return ""
    message = refusal.get("message") if isinstance(refusal, dict) else None
    return message if isinstance(message, str) else ""
