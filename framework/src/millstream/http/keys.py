"""Keys to verify tokens with: from a JWKS address, from a file, or a development key that makes itself.

Each key is bound to one algorithm when it is read, so that a token cannot choose (no `none`, no HMAC with a public
key as its secret). A JWKS is fetched through an injected function, again when a token names an unknown key, at most
once in `RETRY_SECONDS`, and when it is older than `FRESH_SECONDS`; while the address does not answer, the keys last
seen stay in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ..clock import Clock
from ..errors import Misconfigured, Transient
from ..ports.instrumentation import Instrumentation

__all__ = [
    "ALGORITHMS",
    "Fetch",
    "JwksAddress",
    "KeySource",
    "StaticKeys",
    "VerifyingKey",
    "keys_from_file",
    "keys_from_text",
    "read_jwks",
]

Fetch = Callable[[str], Awaitable[bytes]]
"""Get the body under a URL, over the runtime's HTTP client; raises `Transient` when that fails."""

ALGORITHMS = ("EdDSA", "ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
"""What is accepted unless configured otherwise: signatures by a key that the verifier does not hold."""

FRESH_SECONDS = 600.0
RETRY_SECONDS = 10.0
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class VerifyingKey(msgspec.Struct, frozen=True, eq=False):
    """A key and the one algorithm it is used with."""

    kid: str | None
    algorithm: str
    key: object


class KeySource(Protocol):
    """Where verifying keys come from."""

    async def find(self, kid: str | None) -> VerifyingKey | None:
        """The key of this id; without an id the only key there is; None where there is none, or several."""
        ...


class StaticKeys:
    """Keys that are given and stay."""

    def __init__(self, keys: Iterable[VerifyingKey]) -> None:
        self._keys = list(keys)

    async def find(self, kid: str | None) -> VerifyingKey | None:
        return _choose(self._keys, kid)


class JwksAddress:
    """The keys that an issuer publishes under a URL."""

    def __init__(
        self,
        url: str,
        fetch: Fetch,
        clock: Clock,
        instrumentation: Instrumentation,
        algorithms: Sequence[str] = ALGORITHMS,
    ) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._instrumentation = instrumentation
        self._algorithms = algorithms
        self._keys: list[VerifyingKey] = []
        self._tried: float | None = None
        self._fetched: float | None = None
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None) -> VerifyingKey | None:
        key = _choose(self._keys, kid)
        if key is None or not self._fresh():
            if key is not None and self._lock.locked():
                return key  # somebody fetches already; an old key is good until told otherwise
            async with self._lock:
                # Looked at again: whoever held the lock may have fetched what is needed, or just failed to.
                if (_choose(self._keys, kid) is None or not self._fresh()) and self._may_try():
                    await self._refresh()
            key = _choose(self._keys, kid)
        return key

    def _fresh(self) -> bool:
        return self._fetched is not None and self._clock.monotonic() - self._fetched < FRESH_SECONDS

    def _may_try(self) -> bool:
        return self._tried is None or self._clock.monotonic() - self._tried >= RETRY_SECONDS

    async def _refresh(self) -> None:
        before, self._tried = self._tried, self._clock.monotonic()
        try:
            self._keys = read_jwks(await self._fetch(self._url), self._algorithms)
            self._fetched = self._tried
        except asyncio.CancelledError:
            self._tried = before  # a client that gives up must not keep the next one from asking
            raise
        except (Transient, Misconfigured) as error:
            self._instrumentation.log("warning", "jwks_unavailable", url=self._url, error=str(error))


def read_jwks(document: bytes, algorithms: Sequence[str] = ALGORITHMS) -> list[VerifyingKey]:
    """The keys of a JWK Set (RFC 7517) that are for signatures and of an allowed algorithm; others are left out.

    Raises:
        Misconfigured: it is no JWK Set.
    """
    try:
        entries = msgspec.json.decode(document, type=dict[str, Any])["keys"]
    except (msgspec.DecodeError, KeyError, UnicodeDecodeError) as error:
        raise Misconfigured("the key set is no JWKS: a JSON object with a list `keys`") from error
    if not isinstance(entries, list):
        raise Misconfigured("the key set is no JWKS: `keys` is no list")
    keys: list[VerifyingKey] = []
    for entry in cast(list[object], entries):
        if not isinstance(entry, dict) or cast(dict[str, Any], entry).get("use", "sig") != "sig":
            continue
        try:
            read = jwt.PyJWK(cast(dict[str, Any], entry))
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # a key of a kind that we cannot use may stand beside those that we can
        if read.algorithm_name in algorithms:
            keys.append(VerifyingKey(read.key_id, read.algorithm_name, read.key))
    return keys


def keys_from_file(path: Path, algorithms: Sequence[str] = ALGORITHMS) -> StaticKeys:
    """The keys of a file: a JWKS, or public keys in PEM, one after the other.

    Raises:
        Misconfigured: the file cannot be read, or holds no usable key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"key file {path}: {error.strerror}") from error
    return keys_from_text(content, path, algorithms)


def keys_from_text(content: bytes, path: Path, algorithms: Sequence[str] = ALGORITHMS) -> StaticKeys:
    """As `keys_from_file`, of content that was read already; `path` is for messages.

    Raises:
        Misconfigured: the content holds no usable key.
    """
    if content.lstrip().startswith(b"{"):
        keys = read_jwks(content, algorithms)
    else:
        keys = [_from_pem(path, block, algorithms) for block in _pem_blocks(content)]
    if not keys:
        raise Misconfigured(f"key file {path}: holds no key for {', '.join(algorithms)}; it takes a JWKS or PEM")
    return StaticKeys(keys)


def _pem_blocks(content: bytes) -> list[bytes]:
    end = b"-----END PUBLIC KEY-----"
    return [block + end for block in content.split(end)[:-1]]


def _from_pem(path: Path, block: bytes, algorithms: Sequence[str]) -> VerifyingKey:
    try:
        key = serialization.load_pem_public_key(block.strip())
    except ValueError as error:
        raise Misconfigured(f"key file {path}: not a public key in PEM") from error
    match key:
        case ed25519.Ed25519PublicKey():
            fits = ["EdDSA"]
        case ec.EllipticCurvePublicKey():
            fits = [_CURVES.get(key.curve.name, "")]
        case rsa.RSAPublicKey():
            fits = ["RS256", "PS256", "RS384", "PS384", "RS512", "PS512"]
        case _:
            fits = []
    usable = [a for a in algorithms if a in fits]
    if not usable:
        raise Misconfigured(f"key file {path}: a {type(key).__name__} is for none of {', '.join(algorithms)}")
    return VerifyingKey(None, usable[0], key)


def _choose(keys: Sequence[VerifyingKey], kid: str | None) -> VerifyingKey | None:
    if kid is None:
        return keys[0] if len(keys) == 1 else None
    for key in keys:
        if key.kid == kid:
            return key
    # A single key read from PEM has no id of its own.
    return keys[0] if len(keys) == 1 and keys[0].kid is None else None
