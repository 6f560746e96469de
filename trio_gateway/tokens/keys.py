"""Keys that tokens are checked with: what a file holds, and what it may be used for.

In: the bytes of a file: a public key or a certificate in PEM, a JWK or JWKS (RFC 7517), or a shared
secret, one line of text. Out: keys, each with the one algorithm it is good for. The rules: what is
public is never taken for a secret, whatever its wrapping; what is weak, or private, is refused.
"""

import base64
import binascii
import re
from typing import Any

import attrs
import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from trio_gateway.errors import GatewayError

_MAX_KEYS = 32  # each may be tried for one token
_MIN_SECRET_BYTES = 32  # RFC 7518 §3.2
_MIN_RSA_BITS = 2048  # RFC 7518 §3.3
_PEM = re.compile(rb"-----BEGIN ([^\r\n]*?)-----")
_SSH = re.compile(rb"(?:ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-)")
_BOM = b"\xef\xbb\xbf"
_FAILURES = (ValueError, TypeError, KeyError, UnsupportedAlgorithm, InvalidKeyError)


class InvalidKey(GatewayError, ValueError):
    """A key that cannot be used; the text is the end of a sentence that begins with the file."""


@attrs.frozen
class Key:
    """A key, and what it may be used for.

    Attributes:
        algorithm: as a token names it, for example ``"ES256"``.
        material: what PyJWT takes.
        kid: its name (RFC 7517 §4.5), where it has one.
    """

    algorithm: str
    material: Any = attrs.field(repr=False)
    kid: str | None = None


def read_keys(data: bytes) -> tuple[Key, ...]:
    """Return the keys that a file holds, at least one.

    Raises:
        InvalidKey: it holds none, or one that may not be used.
    """
    text = data.removeprefix(_BOM).strip()
    labels = [label.decode("latin-1") for label in _PEM.findall(text)]
    if labels:
        return (_from_pem(text, labels),)
    if text.startswith((b"{", b"[")):
        return _from_json(text)
    return (_from_secret(text),)


def _from_pem(text: bytes, labels: list[str]) -> Key:
    if any("PRIVATE" in label for label in labels):
        raise InvalidKey("holds a private key; give the public one")
    if len(labels) > 1:
        raise InvalidKey("holds several keys or certificates; give each a file of its own")
    try:
        # A certificate is a wrapping for its key: nobody asks who signed it, or its dates.
        if labels[0] == "CERTIFICATE":
            return _checked(x509.load_pem_x509_certificate(text).public_key())
        return _checked(load_pem_public_key(text))
    except InvalidKey:
        raise
    except _FAILURES:
        raise InvalidKey("has no usable public key or certificate in PEM") from None


def _from_json(text: bytes) -> tuple[Key, ...]:
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidKey("begins as a JWKS does, and is no JSON") from None
    members: object = [document]
    if isinstance(document, dict) and "keys" in document:
        members = document["keys"]
    if not isinstance(members, list) or not all(isinstance(each, dict) for each in members):
        raise InvalidKey("is JSON, and not a JWK or a JWKS (RFC 7517)")
    if len(members) > _MAX_KEYS:
        raise InvalidKey(f"has {len(members)} keys; {_MAX_KEYS} are the most")
    keys = tuple(key for member in members if (key := _from_jwk(member)) is not None)
    if not keys:
        raise InvalidKey("has no key for RS256, ES256, EdDSA or HS256")
    return keys


def _from_jwk(jwk: dict[str, Any]) -> Key | None:
    """Read a member of a set; None for one that is for other things (RFC 7517 §5)."""
    kinds: dict[Any, Any] = {
        "RSA": RSAAlgorithm,
        "EC": ECAlgorithm,
        "OKP": OKPAlgorithm,
        "oct": HMACAlgorithm,
    }
    kty, operations = jwk.get("kty"), jwk.get("key_ops", ["verify"])
    kind = kinds.get(kty) if isinstance(kty, str) else None
    if kind is None or jwk.get("use", "sig") != "sig":
        return None
    if kty != "oct" and "d" in jwk:
        raise InvalidKey("holds a private key; give the public one")
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise InvalidKey("has a kid that is no string")
    if jwk.get("crv") in {"P-384", "P-521", "secp256k1", "X25519", "X448"}:
        return None
    try:
        key = _checked(kind.from_jwk(jwk))
    except InvalidKey:
        raise
    except _FAILURES:
        raise InvalidKey(f"has a JWK of the kind {kty} that cannot be read") from None
    return attrs.evolve(key, kid=kid) if jwk.get("alg", key.algorithm) == key.algorithm else None


def _from_secret(text: bytes) -> Key:
    if _SSH.match(text):
        raise InvalidKey("is a key for SSH; give it in PEM")
    if _is_der(text) or _is_der(_unwrapped(text)):
        raise InvalidKey("is a public key without its PEM lines; a secret it is not")
    try:
        one_line = text.decode().isprintable()
    except UnicodeDecodeError:
        one_line = False
    if not one_line:
        # A secret of any bytes is a JWK: a wrong file is none by accident.
        raise InvalidKey("is neither PEM, nor a JWKS, nor a secret: one line of text")
    return _checked(text)


def _unwrapped(text: bytes) -> bytes:
    """Return what base64 stands for: public keys are shown that way too."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return b""


def _is_der(data: bytes) -> bool:
    if not data.startswith(b"\x30"):
        return False
    for load in (load_der_public_key, x509.load_der_x509_certificate):
        try:
            load(data)
        except _FAILURES:
            continue
        return True
    return False


def _checked(material: object) -> Key:
    """Return the key for material that is strong enough."""
    match material:
        case bytes():
            if len(material) < _MIN_SECRET_BYTES:
                raise InvalidKey(
                    f"is a secret of {len(material)} bytes; {_MIN_SECRET_BYTES} are the least"
                )
            return Key("HS256", material)
        case RSAPublicKey():
            if material.key_size < _MIN_RSA_BITS:
                raise InvalidKey(
                    f"has an RSA key of {material.key_size} bits; {_MIN_RSA_BITS} are the least"
                )
            return Key("RS256", material)
        case EllipticCurvePublicKey():
            if material.curve.name != "secp256r1":
                raise InvalidKey(f"has a key on {material.curve.name}; ES256 is on P-256")
            return Key("ES256", material)
        case Ed25519PublicKey() | Ed448PublicKey():
            return Key("EdDSA", material)
        case _:
            raise InvalidKey("has a key for none of RS256, ES256, EdDSA and HS256")
