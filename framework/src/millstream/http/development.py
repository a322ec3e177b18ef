"""A key of one's own for development and for tests, and tokens signed with it.

The key lies in the data folder, readable by its owner alone, and makes itself at the first start. A production system
takes the public keys of its identity provider instead (`keys.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..clock import Clock, Duration, seconds
from ..errors import Misconfigured
from ..ids import Entropy, SystemEntropy
from .keys import VerifyingKey

__all__ = ["SigningKey", "development_key", "issue_token"]

ALGORITHM = "EdDSA"


class SigningKey(msgspec.Struct, frozen=True, eq=False):
    """An Ed25519 key pair. `issuer` and `audience` are written into every token that it signs."""

    private: Ed25519PrivateKey
    kid: str
    issuer: str | None = None
    audience: str | None = None

    def verifying(self) -> VerifyingKey:
        """The public half."""
        return VerifyingKey(self.kid, ALGORITHM, self.private.public_key())


def development_key(path: Path, entropy: Entropy | None = None) -> SigningKey:
    """The key in this file, which is made, with mode 0600, when it does not exist. Several processes may ask at once:
    all get the same key.

    Raises:
        Misconfigured: the file is no such key, cannot be read or written, or others may read it.
    """
    try:
        if not path.exists():
            _create(path, entropy or SystemEntropy())
        if path.stat().st_mode & 0o077:
            raise Misconfigured(f"{path}: others than its owner may read this key; run chmod 600 {path}")
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Misconfigured(f"{path}: not a private key in PEM; remove it, and a new one is made") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise Misconfigured(f"{path}: not an Ed25519 key; remove it, and a new one is made")
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return SigningKey(private, sha256(raw).hexdigest()[:16])


def issue_token(
    key: SigningKey,
    subject: str,
    roles: Sequence[str] = (),
    lifetime: Duration = "1h",
    tenant: str | None = None,
    *,
    clock: Clock,
) -> str:
    """A signed token for a subject. `lifetime` counts from now; `roles` and `tenant` are what `TokenRules` reads."""
    now = clock.now_us() // 1_000_000
    claims: dict[str, object] = {
        "sub": subject,
        "iat": now,
        "exp": now + round(seconds(lifetime)),
        "roles": list(roles),
    }
    optional = {"tenant": tenant, "iss": key.issuer, "aud": key.audience}
    claims.update({name: value for name, value in optional.items() if value is not None})
    return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.kid})


def _create(path: Path, entropy: Entropy) -> None:
    private = Ed25519PrivateKey.from_private_bytes(entropy.token(32))
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{entropy.token(6).hex()}.new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link fails when the name is taken: of several processes one wins, with a complete file.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
