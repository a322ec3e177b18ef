"""Who calls: bearer tokens (RFC 6750) that are JWTs, verified with pinned algorithms.

Which key and which algorithm a token may use is decided by us, never by the token: its header only selects among the
keys that we hold, and each key knows its own algorithm. Expiry is required and read from the injected clock. A token
that was verified is remembered by its exact bytes until it expires, a minute at most, because a signature costs as
much as the rest of a request; so a withdrawn key lets the tokens seen before through for that minute.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import jwt
import msgspec

from ..clock import Clock
from .keys import KeySource, VerifyingKey
from .problems import Problem

__all__ = ["Authenticate", "BearerTokens", "Identity", "TokenRules", "Unauthenticated", "bearer_token"]

TOKEN_LIMIT_BYTES = 8_192
REMEMBERED_TOKENS = 10_000
REMEMBERED_SECONDS = 60


class Identity(msgspec.Struct, frozen=True):
    """Who a token stands for."""

    subject: str
    roles: tuple[str, ...] = ()
    tenant: str | None = None
    expires_us: int = 0


Authenticate = Callable[[str], Awaitable[Identity]]
"""From a bearer token to an identity; raises `Unauthenticated`."""


class Unauthenticated(Problem):
    """401, with the challenge that RFC 6750 §3 asks for."""

    def __init__(self, detail: str, *, error: str = "invalid_token") -> None:
        challenge = f'Bearer error="{error}", error_description="{detail}"' if error else "Bearer"
        super().__init__(401, detail, problem="unauthenticated", headers={"www-authenticate": challenge})


class TokenRules(msgspec.Struct, frozen=True):
    """What a token must say. `audience` and `issuer` are checked when they are given."""

    audience: str | None = None
    issuer: str | None = None
    leeway_seconds: float = 30.0
    roles_claim: str = "roles"
    tenant_claim: str = "tenant"


class BearerTokens:
    """Verifies tokens by the keys of a source. Use an instance as the `authenticate` of `build_app`."""

    def __init__(self, keys: KeySource, clock: Clock, rules: TokenRules = TokenRules()) -> None:  # noqa: B008 - immutable
        self._keys = keys
        self._clock = clock
        self._rules = rules
        self._remembered: OrderedDict[str, tuple[int, Identity]] = OrderedDict()

    async def __call__(self, token: str) -> Identity:
        """The identity that a token proves.

        Raises:
            Unauthenticated: it proves none. The reason does not tell more than the sender can know.
        """
        now_us = self._clock.now_us()
        found = self._remembered.get(token)
        if found is not None:
            if now_us < found[0]:
                self._remembered.move_to_end(token)
                return found[1]
            del self._remembered[token]
        identity = self._read(await self._verified(token), now_us)
        self._remember(token, identity, now_us)
        return identity

    async def _verified(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_LIMIT_BYTES:
            raise Unauthenticated("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise Unauthenticated("the token is not a JWT") from None
        kid = header.get("kid")
        key: VerifyingKey | None = await self._keys.find(kid if isinstance(kid, str) else None)
        if key is None:
            raise Unauthenticated("the token is signed with a key that is not known here")
        if header.get("alg") != key.algorithm or "crit" in header:
            raise Unauthenticated("the token's algorithm is not the one of its key")
        rules = self._rules
        options: dict[str, Any] = {
            # Times are judged below, by the injected clock.
            "verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp", "sub"],
            "verify_aud": rules.audience is not None,
        }  # fmt: skip
        try:
            return jwt.decode(
                token,
                cast(Any, key.key),
                algorithms=[key.algorithm],
                audience=rules.audience,
                issuer=rules.issuer,
                options=cast(Any, options),
            )
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token is for another audience") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the token is from another issuer") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token lacks the claim {error.claim}") from None
        except (jwt.InvalidTokenError, ValueError, TypeError):
            raise Unauthenticated("the token's signature or form is not valid") from None

    def _read(self, claims: dict[str, Any], now_us: int) -> Identity:
        rules = self._rules
        leeway_us = round(rules.leeway_seconds * 1e6)
        expires_us = _moment(claims, "exp")
        if expires_us is None or now_us >= expires_us + leeway_us:
            raise Unauthenticated("the token has expired")
        not_before = _moment(claims, "nbf")
        if not_before is not None and now_us < not_before - leeway_us:
            raise Unauthenticated("the token is not valid yet")
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject or len(subject) > 255 or not subject.isprintable():
            raise Unauthenticated("the token's subject must be 1 to 255 printable characters")
        return Identity(
            subject,
            _texts(claims.get(rules.roles_claim)),
            _text(claims.get(rules.tenant_claim)),
            expires_us + leeway_us,
        )

    def _remember(self, token: str, identity: Identity, now_us: int) -> None:
        until = min(identity.expires_us, now_us + REMEMBERED_SECONDS * 1_000_000)
        self._remembered[token] = (until, identity)
        if len(self._remembered) > REMEMBERED_TOKENS:
            self._remembered.popitem(last=False)


def bearer_token(authorization: bytes | None, *, required: bool) -> str | None:
    """The token of an `Authorization` header; None where there is none and none is needed.

    Raises:
        Unauthenticated: it is needed and missing, or it is no bearer token.
    """
    if authorization is None:
        if required:
            # RFC 6750 §3.1: a request without credentials gets no error code.
            raise Unauthenticated("send a bearer token in the Authorization header", error="")
        return None
    if authorization[:7].lower() != b"bearer ":
        raise Unauthenticated("only bearer tokens are accepted", error="invalid_request")
    try:
        return authorization[7:].strip().decode("ascii")
    except UnicodeDecodeError:
        raise Unauthenticated("the token is not a JWT") from None


def _moment(claims: dict[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e12 < value < 1e12:
        raise Unauthenticated(f"the token's claim {name} is no time")
    return round(value * 1_000_000)


def _text(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 255 or not value.isprintable():
        raise Unauthenticated("the token's tenant must be text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    items: Sequence[object] = value.split() if isinstance(value, str) else cast(Sequence[object], value)
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise Unauthenticated("the token's roles must be a list of texts")
    return tuple(cast(list[str], items))
