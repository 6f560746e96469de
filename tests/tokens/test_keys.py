"""Key files: what they may hold, and what each key is good for."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.tokens.minting import EC, EC_384, ED, RSA, RSA_WEAK, SECRET, jwk, jwks, pem
from trio_gateway.tokens import InvalidKey, read_keys


def der(private: Any) -> bytes:
    data: bytes = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return data


def private_pem(private: Any) -> bytes:
    data: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data


def certificate(private: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, private.public_key(), 1, now, now + timedelta(days=1)
    )
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "data, algorithm",
    [
        (pem(RSA), "RS256"),
        (pem(EC), "ES256"),
        (pem(ED), "EdDSA"),
        (b"\xef\xbb\xbf\r\n" + pem(EC).replace(b"\n", b"\r\n"), "ES256"),
        (RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1), "RS256"),
        (certificate(RSA), "RS256"),
        (certificate(EC), "ES256"),
        (json.dumps(jwk(ED)).encode(), "EdDSA"),
        (jwks(jwk(SECRET)), "HS256"),
        (SECRET.encode(), "HS256"),
        (SECRET.encode() + b"\r\n", "HS256"),
        ("ö".encode() * 16, "HS256"),
    ],
)
def test_the_kind_of_a_key_is_its_algorithm(data: bytes, algorithm: str) -> None:
    """One key, one algorithm, whatever a token says."""
    assert [algorithm] == [key.algorithm for key in read_keys(data)]


def test_a_secret_is_its_line() -> None:
    """The line break that an editor leaves is no part of it."""
    assert [SECRET.encode()] == [key.material for key in read_keys(SECRET.encode() + b"\n")]


def test_a_set_has_names_and_leaves_out_what_is_for_others() -> None:
    """Encryption keys, unknown kinds and other algorithms are passed over (RFC 7517 §5)."""
    keys = read_keys(
        jwks(
            jwk(RSA, kid="a", alg="RS256", use="sig"),
            jwk(EC, kid="b", key_ops=["verify"]),
            jwk(ED),
            jwk(RSA, kid="enc", use="enc"),
            jwk(RSA, kid="512", alg="RS512"),
            jwk(EC, kid="sign", key_ops=["sign"]),
            jwk(EC_384, kid="384"),
            {"kty": "AKP", "kid": "future"},
            {"kty": ["RSA"]},
        )
    )
    assert [("RS256", "a"), ("ES256", "b"), ("EdDSA", None)] == [
        (key.algorithm, key.kid) for key in keys
    ]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is a secret of 0 bytes; 32 are the least"),
        (b"short\n", "is a secret of 5 bytes; 32 are the least"),
        (b"x" * 31, "is a secret of 31 bytes; 32 are the least"),
        (pem(RSA_WEAK), "has an RSA key of 1024 bits; 2048 are the least"),
        (jwks(jwk(RSA), jwk(RSA_WEAK)), "has an RSA key of 1024 bits; 2048 are the least"),
        (jwks(jwk("short")), "is a secret of 5 bytes; 32 are the least"),
        (pem(EC_384), "has a key on secp384r1; ES256 is on P-256"),
        (private_pem(RSA), "holds a private key; give the public one"),
        (jwks({**jwk(EC), "d": "AAAA"}), "holds a private key; give the public one"),
        (pem(EC) + pem(RSA), "holds several keys or certificates; give each a file of its own"),
        (
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "has no usable public key or certificate in PEM",
        ),
        (b"-----BEGIN NONSENSE-----" * 2, None),
        (b"-----BEGIN CERTIFICATE-----", "has no usable public key or certificate in PEM"),
        (der(RSA), "is a public key without its PEM lines; a secret it is not"),
        (base64.b64encode(der(RSA)), "is a public key without its PEM lines; a secret it is not"),
        (base64.encodebytes(der(EC)), "is a public key without its PEM lines; a secret it is not"),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA user@host", "is a key for SSH; give it in PEM"),
        (bytes(range(256)), "is neither PEM, nor a JWKS, nor a secret: one line of text"),
        (SECRET.encode() * 2 + b"\n" + SECRET.encode(), None),
        (b"{" + b"[" * 100_000, "begins as a JWKS does, and is no JSON"),
        (b"{}", "has no key for RS256, ES256, EdDSA or HS256"),
        (b"[]", "is JSON, and not a JWK or a JWKS (RFC 7517)"),
        (b'{"keys": {}}', "is JSON, and not a JWK or a JWKS (RFC 7517)"),
        (jwks(), "has no key for RS256, ES256, EdDSA or HS256"),
        (jwks(*[jwk(EC)] * 33), "has 33 keys; 32 are the most"),
        (jwks({"kty": "EC", "crv": "P-256"}), "has a JWK of the kind EC that cannot be read"),
        (jwks({"kty": "RSA", "n": 1, "e": []}), "has a JWK of the kind RSA that cannot be read"),
        (jwks(jwk(EC, kid=7)), "has a kid that is no string"),
    ],
)
def test_what_is_no_key_is_told_in_one_line(data: bytes, message: str | None) -> None:
    """Weak, private, public in disguise, or nothing of the kind."""
    with pytest.raises(InvalidKey) as caught:
        read_keys(data)
    if message is not None:
        assert message == str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.dictionaries(
            st.sampled_from(
                ["kty", "n", "e", "crv", "x", "y", "k", "alg", "kid", "use", "key_ops"]
            ),
            st.one_of(
                st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "AQAB", "", "sig"]),
                st.integers(),
                st.none(),
                st.lists(st.text(max_size=3), max_size=2),
            ),
        ).map(jwks),
    )
)
def test_no_file_raises_anything_else(data: bytes) -> None:
    """Keys, or InvalidKey."""
    try:
        keys = read_keys(data)
    except InvalidKey:
        return
    assert keys
