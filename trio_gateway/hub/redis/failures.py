"""What goes wrong between us and Redis, for the people who must mend it.

In: what coredis and Trio raise. Out: one line without a password, and whether waiting may help. The
rule: who is to blame is said: the server that does not answer, or the URL that names no
certificate.
"""

import ssl
from typing import Final

import trio
from coredis.exceptions import AuthenticationError, AuthorizationError, RedisError

#: What a connection may end with, or fail to begin with.
FAILURES: Final = (RedisError, OSError, trio.TooSlowError, TimeoutError)

# X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT and the three after it: no authority that we know.
_UNKNOWN_AUTHORITY = range(18, 22)


def explain(error: BaseException) -> str:
    """Say why there is no connection, in one line: the cause that the library wraps."""
    cause = _root(error)
    if isinstance(cause, trio.TooSlowError | TimeoutError):
        return "it does not answer in time"
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = "; name its authority with ssl_ca_certs=FILE"
        unknown = cause.verify_code in _UNKNOWN_AUTHORITY
        return f"its certificate is refused: {cause.verify_message}{hint if unknown else ''}"
    if _wants_certificate(cause):
        return "it asks for a client certificate: ssl_certfile=FILE&ssl_keyfile=FILE"
    return str(cause) or type(cause).__name__


def is_lasting(error: BaseException) -> bool:
    """Return whether this is for an operator to mend, and waiting won't help."""
    cause = _root(error)
    return isinstance(
        cause, AuthenticationError | AuthorizationError | ssl.SSLCertVerificationError
    ) or _wants_certificate(cause)


def _root(error: BaseException) -> BaseException:
    while isinstance(cause := error.__cause__, FAILURES):
        error = cause
    return error


def _wants_certificate(error: BaseException) -> bool:
    # The alert certificate_required, RFC 8446 §6.2; TLS 1.2 has only a general one.
    reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    return isinstance(error, ssl.SSLError) and error.reason == reason
