"""``--auth`` of ``serve``: from options to whoever says who a client is.

In: options. Out: an ``authenticate``, or None where users are who they say. The rule: a key that
cannot be used is one line before anything listens; what checks tokens is loaded only for them.
"""

from trio_gateway.cli.options import ServeOptions
from trio_gateway.handshake.authentication import Authenticate


def open_authenticator(options: ServeOptions) -> Authenticate | None:
    """Return who says who a client is; None with ``--auth none``.

    Raises:
        ConfigurationError: a key cannot be used, or a library is missing.
    """
    tokens = options.tokens
    if tokens is None:
        return None
    try:
        from trio_gateway.tokens import InvalidKey, JwtAuthenticator, KeyFiles
    except ImportError as error:
        raise options.given["auth"].wrong(str(error)) from None
    try:
        keys = KeyFiles(tokens.keys)
    except InvalidKey as error:
        raise options.given["jwt_key"].wrong(str(error)) from None
    return JwtAuthenticator(
        keys, audience=tokens.audience, issuer=tokens.issuer, leeway=tokens.leeway
    )
