"""Signatures of webhooks: HMAC-SHA256 over a timestamp and the raw body, in the header `Webhook-Signature`.

`t=1700000000,v1=5257a8…` signs `1700000000.` + body. The raw bytes are signed, never a parsed form of them; the
timestamp is inside, so an old delivery cannot be replayed; several `v1` let a secret be rotated with overlap. The
scheme is that of Stripe: https://docs.stripe.com/webhooks#verify-manually.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from .provider import BadSignature

__all__ = ["TOLERANCE_SECONDS", "check", "sign"]

TOLERANCE_SECONDS = 300
"""How far a signature's time may be from ours, both ways."""


def sign(body: bytes, secrets: Sequence[bytes], now_us: int) -> str:
    """The header's value."""
    second = now_us // 1_000_000
    return ",".join([f"t={second}", *(f"v1={_digest(secret, second, body)}" for secret in secrets)])


def check(body: bytes, header: str, secrets: Sequence[bytes], now_us: int) -> None:
    """Accept a body that one of the secrets signed just now.

    Raises:
        BadSignature: says what is wrong, never what would have been right.
    """
    second, given = -1, list[str]()
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isascii() and value.isdigit() and len(value) < 16:
            second = int(value)
        elif name == "v1":
            given.append(value)
    if second < 0 or not given:
        raise BadSignature("the header Webhook-Signature must read t=<seconds>,v1=<hex>")
    if abs(now_us // 1_000_000 - second) > TOLERANCE_SECONDS:
        raise BadSignature(f"the signature's time is more than {TOLERANCE_SECONDS} s away from now")
    matches = False
    for secret in secrets:
        right = _digest(secret, second, body).encode()
        for value in given[:8]:
            # No early end: the time taken tells nothing about which secret or digit was wrong.
            matches |= hmac.compare_digest(right, value.encode())
    if not matches:
        raise BadSignature("the body is not what was signed, or the secret is another one")


def _digest(secret: bytes, second: int, body: bytes) -> str:
    return hmac.new(secret, f"{second}.".encode() + body, hashlib.sha256).hexdigest()
