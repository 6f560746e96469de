"""The check of a token: from what a stranger sent to an identity.

In: an upgrade, keys. Out: an ``Identity``, or a 401 that says what is wrong and repeats nothing of
what was sent. The rules: size and shape first, then the signature, then the claims; a key is used
with its own algorithm and no other; nothing in a token raises.
"""

import base64
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jwt
import msgspec

from trio_gateway.handshake.authentication import Identity
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.tokens.credentials import credentials_of
from trio_gateway.tokens.keys import Key
from trio_gateway.wire import InvalidField

if TYPE_CHECKING:
    from trio_gateway.handshake.upgrade import Upgrade

_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")  # RFC 7515 §7.1


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    crit: Any = None


_header = msgspec.json.Decoder(_Header)


def _bad(message: str, error: str = "invalid_token") -> Refusal:
    return Refusal(401, error, message, (("WWW-Authenticate", 'Bearer error="invalid_token"'),))


_MALFORMED = _bad("this is no signed token (a JWT in compact form, RFC 7519)")
_UNKNOWN_KEY = _bad("none of the gateway's keys has signed this token")
_EXPIRED = _bad("the token has expired; get a new one", "token_expired")
_EARLY = _bad("the token is not valid yet", "token_not_yet_valid")
_AUDIENCE = _bad("the token is for another audience")
_ISSUER = _bad("the token is from another issuer")
_CLAIMS = _bad("the token needs the claims exp, a number, and sub, the user's name")
_USER = _bad("the token's sub is no name of 1 to 64 printable characters")


class KeySource(Protocol):
    """Who has the keys."""

    def current(self) -> Sequence[Key]:
        """Return the keys as they are now."""
        ...


class JwtAuthenticator:
    """An ``authenticate`` that believes signed tokens (RFC 7519) and nothing else.

    The token comes in ``Authorization: Bearer``, in ``?token=``, or as the subprotocol pair
    ``bearer, TOKEN``; its ``sub`` is the user, its ``exp`` the end of the connection (4401). A key
    with a ``kid`` is used for tokens that name it or none, a key without for any.

    Arguments:
        keys: ``KeyFiles``, or whoever else has ``current()``.
        audience: who this gateway is: one of them must be in ``aud``. Without it, a token for a
            certain audience is refused, as RFC 7519 §4.1.3 has it.
        issuer: what ``iss`` must be, one of several; None for any.
        leeway: seconds by which clocks may differ, for ``exp``, ``nbf`` and ``iat``.
        max_token_bytes: a longer token is refused unread.
    """

    ambient = False
    """No browser sends a token unasked: pages of any origin may, where no origins are given."""

    def __init__(
        self,
        keys: KeySource,
        *,
        audience: str | Sequence[str] | None = None,
        issuer: str | Sequence[str] | None = None,
        leeway: float = 0.0,
        max_token_bytes: int = 8192,
    ) -> None:
        if not 0 <= leeway < math.inf:
            raise ValueError(f"leeway is a number of seconds from 0, not {leeway!r}")
        self._keys = keys
        self._audience = [audience] if isinstance(audience, str) else audience or None
        self._issuer = [issuer] if isinstance(issuer, str) else issuer or None
        self._leeway = leeway
        self._too_large = _bad(f"the token has more than {max_token_bytes} bytes")
        self._max_token_bytes = max_token_bytes
        self._jwt = jwt.PyJWT({"require": ["exp", "sub"]})

    async def __call__(self, upgrade: "Upgrade") -> Identity | Refusal:
        """Say who an upgrade is for. Holds no checkpoint."""
        credentials = credentials_of(upgrade)
        if isinstance(credentials, Refusal):
            return credentials
        return self.verify(credentials.token, subprotocol=credentials.subprotocol)

    def verify(self, token: str, *, subprotocol: str | None = None) -> Identity | Refusal:
        """Say who a token is for; never raises.

        Arguments:
            token: as it was sent.
            subprotocol: what the identity is to be answered with.
        """
        if len(token) > self._max_token_bytes:
            return self._too_large
        shape = _SHAPE.fullmatch(token)
        header = None if shape is None else _read_header(shape[1])
        # What an extension in crit would mean is not known here (RFC 7515 §4.1.11).
        if header is None or header.crit is not None:
            return _MALFORMED
        answer = _UNKNOWN_KEY
        for key in self._candidates(header):
            claims = self._check(token, key)
            if isinstance(claims, Refusal):
                answer = claims
                if claims is _UNKNOWN_KEY:
                    continue
                return claims
            return self._identity(claims, subprotocol)
        return answer

    def _candidates(self, header: _Header) -> list[Key]:
        keys = [key for key in self._keys.current() if key.algorithm == header.alg]
        if header.kid is None:
            return keys
        return [key for key in keys if key.kid is None or key.kid == header.kid]

    def _check(self, token: str, key: Key) -> dict[str, Any] | Refusal:
        try:
            return self._jwt.decode(
                token,
                key.material,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
            )
        except (jwt.InvalidSignatureError, jwt.InvalidKeyError, jwt.InvalidAlgorithmError):
            return _UNKNOWN_KEY
        except jwt.ExpiredSignatureError:
            return _EXPIRED
        except jwt.ImmatureSignatureError:
            return _EARLY
        except (jwt.MissingRequiredClaimError, jwt.exceptions.InvalidSubjectError) as error:
            return _claim_refusal(error)
        except jwt.InvalidAudienceError:
            return _AUDIENCE
        except jwt.InvalidIssuerError:
            return _ISSUER
        except Exception:
            # Whatever else a library says of a stranger's token, the token is bad.
            return _MALFORMED

    def _identity(self, claims: dict[str, Any], subprotocol: str | None) -> Identity | Refusal:
        expires = claims["exp"]
        if isinstance(expires, bool) or not isinstance(expires, int | float):
            return _CLAIMS
        try:
            return Identity(claims["sub"], claims, expires + self._leeway, subprotocol)
        except (InvalidField, OverflowError):
            return _USER


def _read_header(text: str) -> _Header | None:
    try:
        return _header.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):  # msgspec's, binascii's and Unicode's are ValueErrors
        return None


def _claim_refusal(error: jwt.PyJWTError) -> Refusal:
    match getattr(error, "claim", "sub"):
        case "aud":
            return _AUDIENCE
        case "iss":
            return _ISSUER
        case _:
            return _CLAIMS
