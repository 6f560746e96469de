"""Tokens of every make: by PyJWT where it lets one, by hand where a token has to be wrong."""

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from trio_gateway.tokens import Key

SECRET = "correct horse battery staple, and sixty-four bytes or more in all"
RSA = rsa.generate_private_key(65537, 2048)
RSA_WEAK = rsa.generate_private_key(65537, 1024)
EC = ec.generate_private_key(ec.SECP256R1())
EC_OTHER = ec.generate_private_key(ec.SECP256R1())
EC_384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
SIGNERS: dict[str, Any] = {"HS256": SECRET, "RS256": RSA, "ES256": EC, "EdDSA": ED}


def pem(private: Any) -> bytes:
    """Return the public key in PEM."""
    public: bytes = private.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    return public


def jwk(private: Any, **members: Any) -> dict[str, Any]:
    """Return the public key, or the secret, as a JWK."""
    if isinstance(private, str):
        return {"kty": "oct", "k": b64(private.encode()), **members}
    kinds: list[tuple[type, Any]] = [
        (rsa.RSAPrivateKey, RSAAlgorithm),
        (ec.EllipticCurvePrivateKey, ECAlgorithm),
        (ed25519.Ed25519PrivateKey, OKPAlgorithm),
    ]
    (kind,) = [algorithm for key_type, algorithm in kinds if isinstance(private, key_type)]
    return {**kind.to_jwk(private.public_key(), as_dict=True), **members}


def jwks(*members: Mapping[str, Any]) -> bytes:
    """Return a key set."""
    return json.dumps({"keys": members}).encode()


def claims(**changed: Any) -> dict[str, Any]:
    """Return good claims with some of them changed; None takes one away."""
    good = {"sub": "ann", "exp": int(time.time()) + 3600}
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def mint(
    signer: Any = SECRET,
    algorithm: str = "HS256",
    headers: dict[str, Any] | None = None,
    **changed: Any,
) -> str:
    """Return a signed token."""
    return jwt.encode(claims(**changed), signer, algorithm, headers=headers)


def sign(header: bytes, payload: bytes, secret: str = SECRET) -> str:
    """Return a token of any bytes, with a good HS256 signature."""
    signed = f"{b64(header)}.{b64(payload)}"
    hmac = HMACAlgorithm(HMACAlgorithm.SHA256)
    return f"{signed}.{b64(hmac.sign(signed.encode(), secret.encode()))}"


def b64(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Held:
    """Keys that are what a test says."""

    def __init__(self, *keys: Key) -> None:
        self.keys = keys

    def current(self) -> tuple[Key, ...]:
        return self.keys
