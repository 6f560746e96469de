"""Tokens: who is let in, and a clear 401 for all others."""

import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.handshake.heads import handshake, read_head
from tests.tokens.minting import (
    EC,
    EC_OTHER,
    ED,
    RSA,
    SECRET,
    SIGNERS,
    Held,
    b64,
    claims,
    jwk,
    jwks,
    mint,
    pem,
    sign,
)
from trio_gateway import Identity, Refusal
from trio_gateway.tokens import JwtAuthenticator, Key, read_keys

HS = '{"alg":"HS256","typ":"JWT"}'
ALL = (*read_keys(SECRET.encode()), *read_keys(jwks(*map(jwk, (RSA, EC, ED)))))


def verifier(*keys: Key, **settings: Any) -> JwtAuthenticator:
    return JwtAuthenticator(Held(*(keys or ALL)), **settings)


def refused(answer: Identity | Refusal) -> tuple[int, str]:
    assert isinstance(answer, Refusal)
    assert answer.status in {400, 401}
    assert answer.headers[0][0] == "WWW-Authenticate"
    assert answer.headers[0][1].startswith("Bearer")
    return answer.status, answer.error


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_good_token_is_an_identity(algorithm: str) -> None:
    """Its sub is the user, its exp the end, its claims come along."""
    end = int(time.time()) + 60
    token = mint(SIGNERS[algorithm], algorithm, sub="Zoë", exp=end, rooms=["blue"])
    identity = verifier().verify(token)
    assert isinstance(identity, Identity)
    assert ("Zoë", end, ["blue"]) == (identity.user, identity.expires, identity.claims["rooms"])


def unsigned(header: dict[str, Any], **changed: Any) -> str:
    """Return a token without a signature, as somebody who has no key makes it."""
    return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims(**changed)).encode())}."


NOW = int(time.time())  # of the collection: what depends on it is hours away
NESTED = b"[" * 5000 + b"]" * 5000
GOOD_CLAIMS = json.dumps(claims()).encode()
BAD: dict[str, str | tuple[str, str]] = {
    "empty": "",
    "words": "not a token",
    "dots": "..",
    "alg none": unsigned({"alg": "none"}),
    "alg None": unsigned({"alg": "None"}) + "AAAA",
    "alg none, with bytes": unsigned({"alg": "none"}) + "AAAA",
    "no alg": sign(b"{}", GOOD_CLAIMS),
    "alg a list": sign(b'{"alg":["HS256"]}', GOOD_CLAIMS),
    "another secret": mint("x" * 40),
    "another key": mint(EC_OTHER, "ES256"),
    "a larger hash": jwt.encode(claims(), SECRET, "HS512"),
    "another padding": jwt.encode(claims(), RSA, "PS256"),
    "the public key as a secret": sign(HS.encode(), GOOD_CLAIMS, pem(RSA).decode()),
    "expired": (mint(exp=NOW - 1), "token_expired"),
    "expired long ago": (mint(exp=0), "token_expired"),
    "before time": (mint(exp=-(10**30)), "token_expired"),
    "not yet valid": (mint(nbf=NOW + 86_400), "token_not_yet_valid"),
    "from the future": (mint(iat=NOW + 86_400), "token_not_yet_valid"),
    "no exp": mint(exp=None),
    "exp text": mint(exp="tomorrow"),
    "exp digits": mint(exp=str(NOW + 86_400)),
    "exp true": (mint(exp=True), "token_expired"),
    "exp a list": mint(exp=[NOW + 86_400]),
    "exp 1e999": sign(HS.encode(), b'{"sub":"ann","exp":1e999}'),
    "exp NaN": sign(HS.encode(), b'{"sub":"ann","exp":NaN}'),
    "exp beyond floats": mint(exp=10**400),
    "exp of more digits than Python reads": sign(
        HS.encode(), b'{"sub":"ann","exp":%b}' % (b"9" * 5000)
    ),
    "no sub": mint(sub=None),
    "sub a number": sign(HS.encode(), b'{"sub":7,"exp":9999999999}'),
    "sub empty": mint(sub=""),
    "sub long": mint(sub="x" * 65),
    "sub with a control character": mint(sub="a\nb"),
    "sub right to left": mint(sub="\u202eann"),
    "sub half a surrogate pair": mint(sub="\ud800"),
    "for somebody": mint(aud="billing"),
    "huge": mint(padding="x" * 10_000),
    "huge and no token": "A" * 10_000_000,
    "nested claims": sign(HS.encode(), NESTED[1000:-1000]),
    "nested header": sign(b'{"alg":"HS256","x":%b}' % NESTED[3500:-3500], b"{}"),
    "claims a list": sign(HS.encode(), b"[1]"),
    "claims not JSON": sign(HS.encode(), b"\xff\xfe"),
    "header not JSON": sign(b"\xff\xfe", GOOD_CLAIMS),
    "non-ASCII": "é" + mint(),
    "digits of other scripts": "١.٢.٣",
    "a JWE": ".".join([b64(b'{"alg":"dir","enc":"A256GCM"}'), "", "AA", "AA", "AA"]),
    "crit": sign(b'{"alg":"HS256","crit":["exp"],"exp":1}', GOOD_CLAIMS),
    "crit empty": sign(b'{"alg":"HS256","crit":[]}', GOOD_CLAIMS),
    "unencoded payload": sign(b'{"alg":"HS256","b64":false,"crit":["b64"]}', GOOD_CLAIMS),
    "kid a number": sign(b'{"alg":"HS256","kid":7}', GOOD_CLAIMS),
    "kid an object": sign(b'{"alg":"HS256","kid":{}}', GOOD_CLAIMS),
    "padding": mint() + "==",
    "a line break": mint() + "\n",
    "cut": mint()[:-5],
    "a token in a token": sign(b'{"alg":"HS256","cty":"JWT"}', mint().encode()),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_token_is_401_and_nothing_is_repeated(bad: str | tuple[str, str]) -> None:
    """The answer names the reason, and holds nothing of what was sent."""
    token, error = (bad, "invalid_token") if isinstance(bad, str) else bad
    answer = verifier().verify(token)
    assert (401, error) == refused(answer)
    assert isinstance(answer, Refusal)
    assert len(answer.message) < 100
    assert not {part for part in token.split(".") if len(part) > 8 and part in answer.message}


KIDS = [
    "../../../../dev/null",
    "/proc/sys/kernel/randomize_va_space",
    "' UNION SELECT 'AAAA' --",
    "a\0b",
    "https://evil.example/jwks.json",
    "",
]


@pytest.mark.parametrize("kid", KIDS)
def test_a_kid_is_compared_and_nothing_else(kid: str) -> None:
    """No file, no query, no address: a name that no key has is a key that is not there."""
    named = read_keys(jwks(jwk(SECRET, kid="k1")))
    assert (401, "invalid_token") == refused(verifier(*named).verify(mint(headers={"kid": kid})))
    empty = sign(json.dumps({"alg": "HS256", "kid": kid}).encode(), GOOD_CLAIMS, "")
    assert (401, "invalid_token") == refused(verifier(*named).verify(empty))


@pytest.mark.parametrize("header", ["jku", "x5u", "jwk", "x5c"])
def test_a_token_does_not_bring_its_key(header: str) -> None:
    """Keys in a header, or addresses of keys, mean nothing (RFC 8725 §3.10)."""
    value: Any = jwk(EC_OTHER) if header == "jwk" else "https://evil.example/keys"
    token = mint(EC_OTHER, "ES256", headers={header: value})
    assert (401, "invalid_token") == refused(verifier().verify(token))


def test_kids_choose_among_keys() -> None:
    """A named key counts for its name and for tokens that name none; one without, for all."""
    keys = read_keys(jwks(jwk(EC, kid="a"), jwk(EC_OTHER, kid="b")))
    names = {kid: {"kid": kid} for kid in ("a", "b", "c")}
    both = verifier(*keys)
    assert isinstance(both.verify(mint(EC, "ES256", headers=names["a"])), Identity)
    assert isinstance(both.verify(mint(EC_OTHER, "ES256", headers=names["b"])), Identity)
    assert isinstance(both.verify(mint(EC_OTHER, "ES256")), Identity)
    for kid in "bc":
        assert isinstance(both.verify(mint(EC, "ES256", headers=names[kid])), Refusal)
    unnamed = verifier(*read_keys(pem(EC)))
    assert isinstance(unnamed.verify(mint(EC, "ES256", headers=names["c"])), Identity)


@pytest.mark.parametrize(
    "settings, changed, admitted",
    [
        ({"audience": "chat"}, {"aud": "chat"}, True),
        ({"audience": ["a", "chat"]}, {"aud": ["chat", "b"]}, True),
        ({"audience": "chat"}, {"aud": "other"}, False),
        ({"audience": "chat"}, {}, False),
        ({"audience": "chat"}, {"aud": 7}, False),
        ({"issuer": "https://id"}, {"iss": "https://id"}, True),
        ({"issuer": ("x", "https://id")}, {"iss": "https://id"}, True),
        ({"issuer": "https://id"}, {"iss": "https://id.evil"}, False),
        ({"issuer": "https://id"}, {}, False),
        ({}, {"iss": "anybody"}, True),
        ({"leeway": 7200}, {"exp": NOW - 10}, True),
        ({"leeway": 7200}, {"exp": NOW - 100_000}, False),
        ({"leeway": 7200}, {"nbf": NOW + 7000}, True),
        ({"leeway": 7200}, {"iat": NOW + 7000}, True),
    ],
)
def test_audience_issuer_and_leeway(
    settings: dict[str, Any], changed: dict[str, Any], admitted: bool
) -> None:
    """As they are set; a claim that is asked for and absent is none."""
    answer = verifier(**settings).verify(mint(**changed))
    assert admitted is isinstance(answer, Identity)


def test_leeway_counts_for_the_end_too() -> None:
    """Who was let in within it is not closed at once."""
    identity = verifier(leeway=7200).verify(mint(exp=NOW + 5))
    assert isinstance(identity, Identity)
    assert NOW + 7205 == identity.expires


def test_an_empty_tuple_of_audiences_is_none() -> None:
    """As a command line without the flag gives it."""
    assert isinstance(verifier(audience=(), issuer=()).verify(mint()), Identity)


def test_a_leeway_that_cannot_be_meant() -> None:
    """A year is a choice, a negative number is a mistake."""
    for leeway in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="leeway"):
            verifier(leeway=leeway)


@given(
    st.text(max_size=50)
    | st.lists(st.binary(max_size=40), min_size=3, max_size=3).map(
        lambda parts: ".".join(map(b64, parts))
    )
)
def test_no_text_raises(token: str) -> None:
    """A stranger's token is refused, whatever it is."""
    assert isinstance(verifier().verify(token), Refusal)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "sub", "aud", "iss"]), json_values),
    st.dictionaries(st.sampled_from(["kid", "typ", "crit", "b64", "zip", "cty"]), json_values),
)
def test_no_signed_claims_raise(changed: dict[str, Any], extra: dict[str, Any]) -> None:
    """An issuer may be mad: still an identity or a refusal."""
    token = sign(json.dumps({**extra, "alg": "HS256"}).encode(), json.dumps(changed).encode())
    assert isinstance(verifier(audience="a", issuer="i").verify(token), Identity | Refusal)


# Where the token stands.


class FakeUpgrade:
    """What the authenticator sees of an upgrade."""

    def __init__(self, target: str, *headers: bytes) -> None:
        self.head = read_head(
            handshake(*headers).replace(b"GET / ", b"GET %b " % target.encode("ascii"), 1)
        )


GOOD = mint()
OTHER = mint(sub="bob")
PAIR = f"Sec-WebSocket-Protocol: bearer, {GOOD}"


@pytest.mark.parametrize(
    "target, headers, subprotocol",
    [
        ("/", [f"Authorization: Bearer {GOOD}"], None),
        ("/", [f"authorization: bearer   {GOOD}"], None),
        (f"/?token={GOOD}", [], None),
        (f"/?room=a&%74oken={GOOD}", [], None),
        ("/", [PAIR], "bearer"),
        ("/", [PAIR + ", chat"], "bearer"),
        (
            "/",
            ["Sec-WebSocket-Protocol: a, bearer", f"Sec-WebSocket-Protocol: {GOOD}"],
            "bearer",
        ),
        (f"/?token={GOOD}", [f"Authorization: Bearer {GOOD}", PAIR], "bearer"),
        (f"/?token={GOOD}", ["Authorization: Basic YTpi"], None),
        (f"/?token={GOOD}", ["Sec-WebSocket-Protocol: chat, bearer"], None),
    ],
)
async def test_where_a_token_may_stand(
    target: str, headers: list[str], subprotocol: str | None
) -> None:
    """In a header, in the query, behind the subprotocol ``bearer``; the same in all is one."""
    upgrade: Any = FakeUpgrade(target, *(header.encode() for header in headers))
    identity = await verifier()(upgrade)
    assert isinstance(identity, Identity)
    assert ("ann", subprotocol) == (identity.user, identity.subprotocol)


@pytest.mark.parametrize(
    "target, headers, expected",
    [
        ("/", [], (401, "missing_token")),
        ("/?token", [], (401, "missing_token")),
        ("/?token=", [], (401, "invalid_token")),
        ("/?Token=x", [], (401, "missing_token")),
        ("/", ["Authorization: Basic YTpi"], (401, "missing_token")),
        ("/", ["Authorization: Bearer"], (401, "missing_token")),
        ("/", [f"Authorization: Bearer {GOOD} x"], (401, "missing_token")),
        ("/", [f"Cookie: token={GOOD}"], (401, "missing_token")),
        ("/", ["Sec-WebSocket-Protocol: bearer"], (401, "missing_token")),
        ("/", [f"Sec-WebSocket-Protocol: {GOOD}"], (401, "missing_token")),
        ("/", [f"Authorization: Bearer {GOOD}"] * 2, (400, "several_tokens")),
        (
            "/",
            ["Authorization: Basic a", f"Authorization: Bearer {GOOD}"],
            (400, "several_tokens"),
        ),
        (f"/?token={GOOD}&token={OTHER}", [], (400, "several_tokens")),
        (f"/?token={OTHER}", [f"Authorization: Bearer {GOOD}"], (400, "several_tokens")),
        (f"/?token={OTHER}", [PAIR], (400, "several_tokens")),
        ("/", ["Authorization: Bearer a\xe9.b.c"], (401, "invalid_token")),
        ("/?token=%ff%00", [], (401, "invalid_token")),
    ],
)
async def test_no_token_and_more_than_one(
    target: str, headers: list[str], expected: tuple[int, str]
) -> None:
    """Nobody is guessed at: a proxy in front may have looked at the other one."""
    upgrade: Any = FakeUpgrade(target, *(header.encode("latin-1") for header in headers))
    assert expected == refused(await verifier()(upgrade))
