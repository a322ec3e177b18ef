"""Tokens: what is accepted, and every way of not being one that attackers have used."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from millstream.clock import SystemClock
from millstream.errors import Misconfigured, TransportUnavailable
from millstream.http.auth import BearerTokens, Identity, TokenRules, Unauthenticated, bearer_token
from millstream.http.development import SigningKey, development_key, issue_token
from millstream.http.keys import JwksAddress, StaticKeys, VerifyingKey, keys_from_file, read_jwks
from millstream.ports.instrumentation import Silent


class HandClock(SystemClock):
    """Time stands still until the test moves it."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def now_us(self) -> int:
        return round(self.seconds * 1e6)

    def monotonic(self) -> float:
        return self.seconds


CLOCK = HandClock()
KEY = SigningKey(ed25519.Ed25519PrivateKey.generate(), "k1")
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC_PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def tokens(rules: TokenRules = TokenRules(), clock: SystemClock = CLOCK) -> BearerTokens:  # noqa: B008 - immutable
    return BearerTokens(StaticKeys([KEY.verifying()]), clock, rules)


def signed(claims: dict[str, Any], key: Any = KEY.private, algorithm: str = "EdDSA", **header: Any) -> str:
    given = {"sub": "alice", "exp": int(CLOCK.seconds) + 60, **claims}
    kept = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers={"kid": "k1", **header})


def forged(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return ".".join((part(msgspec.json.encode(header)), part(msgspec.json.encode(claims)), part(signature)))


async def why_not(token: str, rules: TokenRules = TokenRules()) -> str:  # noqa: B008 - immutable
    with pytest.raises(Unauthenticated) as caught:
        await tokens(rules)(token)
    assert caught.value.status == 401
    assert caught.value.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    return caught.value.detail


async def test_a_token_says_who_calls() -> None:
    token = issue_token(KEY, "alice", ["user", "admin"], "5m", "acme", clock=CLOCK)
    expires = CLOCK.now_us() + (300 + 30) * 1_000_000
    assert await tokens()(token) == Identity("alice", ("user", "admin"), "acme", expires)


async def test_roles_may_be_a_text_as_oauth_writes_scopes() -> None:
    assert (await tokens(TokenRules(roles_claim="scope"))(signed({"scope": "read write"}))).roles == ("read", "write")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": int(CLOCK.seconds) - 30}, "expired"),
        ({"exp": None}, "lacks the claim exp"),
        ({"exp": True}, "no time"),
        ({"exp": 10**30}, "no time"),
        ({"nbf": int(CLOCK.seconds) + 31}, "not valid yet"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": ""}, "subject"),
        ({"sub": "a\u0000b"}, "subject"),
        ({"sub": "a" * 256}, "subject"),
        ({"roles": 7}, "roles"),
        ({"roles": [7]}, "roles"),
        ({"roles": {"admin": True}}, "roles"),
        ({"tenant": 7}, "tenant"),
    ],
)
async def test_claims_that_do_not_hold(claims: dict[str, Any], reason: str) -> None:
    assert reason in await why_not(signed(claims))


async def test_leeway_lets_clocks_differ() -> None:
    await tokens()(signed({"exp": int(CLOCK.seconds) - 29, "nbf": int(CLOCK.seconds) + 30}))


async def test_audience_and_issuer_are_checked_when_they_are_configured() -> None:
    rules = TokenRules(audience="shop", issuer="https://id.example.org")
    right = {"aud": "shop", "iss": "https://id.example.org"}
    await tokens(rules)(signed(right))
    await tokens(rules)(signed({**right, "aud": ["other", "shop"]}))
    assert "audience" in await why_not(signed({**right, "aud": "other"}), rules)
    assert "issuer" in await why_not(signed({**right, "iss": "https://evil.example.org"}), rules)
    assert "aud" in await why_not(signed({"iss": right["iss"]}), rules)
    assert "iss" in await why_not(signed({"aud": "shop"}), rules)
    await tokens()(signed({"aud": "anything"}))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS256", "RS256", ""])
async def test_the_token_does_not_choose_its_algorithm(algorithm: str) -> None:
    claims = {"sub": "alice", "exp": int(CLOCK.seconds) + 60}
    assert "algorithm" in await why_not(forged({"alg": algorithm, "kid": "k1", "typ": "JWT"}, claims))


async def test_a_public_key_is_no_secret_of_an_hmac() -> None:
    rules = BearerTokens(StaticKeys([VerifyingKey("k1", "RS256", RSA.public_key())]), CLOCK)
    await rules(signed({}, RSA, "RS256"))
    head = forged({"alg": "HS256", "kid": "k1"}, {"sub": "root", "exp": int(CLOCK.seconds) + 60}).rsplit(".", 1)[0]
    mac = base64.urlsafe_b64encode(hmac.new(PUBLIC_PEM, head.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    with pytest.raises(Unauthenticated, match="algorithm"):
        await rules(f"{head}.{mac}")


async def test_signatures_of_others_and_changed_tokens_are_refused() -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    assert "signature" in await why_not(signed({}, other))
    assert "not known" in await why_not(signed({}, other, kid="k2"))
    head, claims, signature = signed({}).split(".")
    changed = forged({}, {"sub": "root", "exp": int(CLOCK.seconds) + 60}).split(".")[1]
    assert "signature" in await why_not(f"{head}.{changed}.{signature}")
    assert "signature" in await why_not(f"{head}.{claims}.")
    await why_not(signed({}, crit=["exp"]))
    for odd in ("", ".", "..", "a.b.c", head, "\u00e9", "a" * 9_000):
        await why_not(odd)


async def test_a_token_is_remembered_until_it_expires_and_a_minute_at_most() -> None:
    clock = HandClock()

    class Counting(StaticKeys):
        asked = 0

        async def find(self, kid: str | None) -> VerifyingKey | None:
            Counting.asked += 1
            return await super().find(kid)

    verify = BearerTokens(Counting([KEY.verifying()]), clock)
    token = issue_token(KEY, "alice", lifetime="90s", clock=clock)
    for moment, asked in ((0, 1), (59, 1), (61, 2), (119, 2)):
        clock.seconds = CLOCK.seconds + moment
        await verify(token)
        assert Counting.asked == asked
    clock.seconds = CLOCK.seconds + 120.5
    with pytest.raises(Unauthenticated, match="expired"):
        await verify(token)


async def test_memory_for_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millstream.http.auth.REMEMBERED_TOKENS", 3)
    verify = tokens()
    for n in range(10):
        await verify(signed({"n": n}))
    assert len(verify._remembered) == 3


def test_authorization_headers() -> None:
    assert bearer_token(b"Bearer abc", required=True) == "abc"
    assert bearer_token(b"bearer  abc ", required=True) == "abc"
    assert bearer_token(None, required=False) is None
    with pytest.raises(Unauthenticated) as caught:
        bearer_token(None, required=True)
    assert caught.value.headers["www-authenticate"] == "Bearer"
    for odd in (b"Basic abc", b"abc", b"", b"Bearer \xff"):
        with pytest.raises(Unauthenticated):
            bearer_token(odd, required=False)


@given(token=st.text(max_size=200) | st.from_regex(r"[\w-]{0,60}\.[\w-]{0,60}\.[\w-]{0,60}", fullmatch=True))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_strange_tokens_are_only_ever_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        asyncio.run(tokens()(token))


@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64"]), st.none() | st.booleans() | st.text() | st.integers()
    )
)
@settings(deadline=None)
def test_strange_headers_are_only_ever_refused(header: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        asyncio.run(tokens()(forged(header, {"sub": "root", "exp": int(CLOCK.seconds) + 60}, b"x" * 64)))


# -- where keys come from ----------------------------------------------------------------------------------------------


def jwks(*entries: tuple[str, Any], **more: Any) -> bytes:
    keys: list[dict[str, Any]] = []
    for kid, private in entries:
        name = {rsa.RSAPrivateKey: "RSA", ec.EllipticCurvePrivateKey: "EC"}
        kind = next((v for k, v in name.items() if isinstance(private, k)), "OKP")
        algorithm = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}[kind]
        keys.append({**algorithm.to_jwk(private.public_key(), as_dict=True), "kid": kid, "use": "sig", **more})
    return msgspec.json.encode({"keys": keys})


class Issuer:
    """An address that publishes keys; it counts and can fail."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.fetched = 0
        self.away = False

    async def fetch(self, url: str) -> bytes:
        self.fetched += 1
        await asyncio.sleep(0)
        if self.away:
            raise TransportUnavailable("away")
        return self.document


async def test_keys_are_fetched_once_and_again_for_an_unknown_one() -> None:
    clock, rotated = HandClock(), ed25519.Ed25519PrivateKey.generate()
    issuer = Issuer(jwks(("k1", KEY.private)))
    verify = BearerTokens(JwksAddress("https://id/jwks", issuer.fetch, clock, Silent()), clock)
    async with asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(verify(signed({"n": n})))
    assert issuer.fetched == 1

    issuer.document = jwks(("k1", KEY.private), ("k2", rotated))
    with pytest.raises(Unauthenticated):
        await verify(signed({}, rotated, kid="k2"))
    assert issuer.fetched == 1  # asked a moment ago
    clock.seconds += 11
    async with asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(verify(signed({"n": n}, rotated, kid="k2")))
    assert issuer.fetched == 2


async def test_old_keys_are_fetched_anew_and_kept_while_the_issuer_is_away() -> None:
    clock = HandClock()
    issuer = Issuer(jwks(("k1", KEY.private)))
    source = JwksAddress("https://id/jwks", issuer.fetch, clock, Silent())
    assert await source.find("k1") is not None
    clock.seconds += 601
    issuer.away = True
    assert await source.find("k1") is not None
    assert issuer.fetched == 2
    issuer.away, issuer.document = False, jwks(("k9", KEY.private))
    clock.seconds += 11
    assert await source.find("k1") is None  # withdrawn
    assert await source.find("k9") is not None


async def test_an_issuer_that_never_answered_lets_nobody_in() -> None:
    issuer = Issuer(b"")
    issuer.away = True
    verify = BearerTokens(JwksAddress("https://id/jwks", issuer.fetch, CLOCK, Silent()), CLOCK)
    for _ in range(3):
        with pytest.raises(Unauthenticated, match="not known"):
            await verify(signed({}))
    assert issuer.fetched == 1


async def test_a_request_that_gives_up_does_not_cost_the_next_one_its_keys() -> None:
    issuer = Issuer(jwks(("k1", KEY.private)))
    source = JwksAddress("https://id/jwks", issuer.fetch, CLOCK, Silent())

    async def find() -> VerifyingKey | None:
        return await source.find("k1")

    async with asyncio.TaskGroup() as group:
        impatient = group.create_task(find())
        patient = group.create_task(find())
        await asyncio.sleep(0)
        impatient.cancel()
    assert patient.result() is not None


def test_only_keys_for_signatures_with_allowed_algorithms_are_read() -> None:
    p256 = ec.generate_private_key(ec.SECP256R1())
    assert [k.algorithm for k in read_jwks(jwks(("a", RSA), ("b", p256), ("c", KEY.private)))] == [
        "RS256",
        "ES256",
        "EdDSA",
    ]
    assert read_jwks(jwks(("a", RSA), use="enc")) == []
    secret = base64.urlsafe_b64encode(b"s" * 32).decode()
    assert (
        read_jwks(msgspec.json.encode({"keys": [{"kty": "oct", "k": secret, "alg": "HS256"}, {"kty": "odd"}, 7]})) == []
    )
    assert read_jwks(jwks(("a", RSA)), ["EdDSA"]) == []
    for odd in (b"", b"[]", b"{}", b'{"keys": 7}', b"\xff"):
        with pytest.raises(Misconfigured):
            read_jwks(odd)


async def test_keys_come_from_files_of_either_kind(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(PUBLIC_PEM)
    rules = TokenRules()
    await BearerTokens(keys_from_file(path), CLOCK, rules)(signed({}, RSA, "RS256"))
    path.write_bytes(jwks(("k1", KEY.private)))
    await BearerTokens(keys_from_file(path), CLOCK, rules)(signed({}))
    for odd in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", b"{}"):
        path.write_bytes(odd)
        with pytest.raises(Misconfigured):
            keys_from_file(path)
    with pytest.raises(Misconfigured):
        keys_from_file(tmp_path / "missing")


def test_the_development_key_makes_itself_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "key.pem"
    first, again = development_key(path), development_key(path)
    assert first.kid == again.kid
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["key.pem"]
    path.chmod(0o644)
    with pytest.raises(Misconfigured, match="chmod 600"):
        development_key(path)
    path.chmod(0o600)
    path.write_bytes(PUBLIC_PEM)
    with pytest.raises(Misconfigured, match="private key"):
        development_key(path)
