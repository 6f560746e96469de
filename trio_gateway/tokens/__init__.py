"""Identity by JSON Web Token (RFC 7519): ``--auth jwt``, and ``authenticate=`` of any gateway.

In: the token of an upgrade, keys from files. Out: an ``Identity`` that expires with the token, or a
401. The rule: what a key is decides how it may be used, never what a token says of itself. ::

    authenticate = JwtAuthenticator(KeyFiles(["jwks.json"]), audience="chat")
    await serve_websocket(handler, "0.0.0.0", 443, tls, authenticate=authenticate)

Importing this needs the extra ``trio-gateway[jwt]``: PyJWT and cryptography.
"""

try:
    import cryptography as _cryptography
    import jwt as _jwt
except ImportError:
    raise ImportError(
        "tokens need PyJWT and cryptography: pip install 'trio-gateway[jwt]'"
    ) from None

from trio_gateway.tokens.files import KeyFiles
from trio_gateway.tokens.keys import InvalidKey, Key, read_keys
from trio_gateway.tokens.verifier import JwtAuthenticator

__all__ = ["InvalidKey", "JwtAuthenticator", "Key", "KeyFiles", "read_keys"]

del _cryptography, _jwt
