"""Identifiers and entropy as a port, and ids that a rerun repeats (rule T6).

Fresh ids are UUID version 7 (RFC 9562) written as 32 hexadecimal digits: they sort by time, so that an index over
them grows at one end. A derived id keeps the time digits of its cause for the same reason and takes the rest from a
hash: the same handler, run again for the same cause, gives the same ids.
"""

from __future__ import annotations

import os
import random
import time
from hashlib import blake2b
from typing import Protocol

__all__ = ["Entropy", "Ids", "SystemEntropy", "derive_id"]


class Entropy(Protocol):
    """The only source of randomness."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def token(self, n_bytes: int) -> bytes:
        """`n_bytes` unpredictable bytes."""
        ...


class SystemEntropy:
    """Randomness of the operating system."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(16))

    def random(self) -> float:
        return self._random.random()

    def token(self, n_bytes: int) -> bytes:
        return os.urandom(n_bytes)


class Ids:
    """Makes fresh ids. Within one instance they are strictly increasing, also inside one millisecond.

    Source of the layout: RFC 9562 §5.7, with the 12 bits of `rand_a` used as a counter (§6.2, method 1).
    """

    def __init__(self, entropy: Entropy | None = None, now_ms: _Now | None = None) -> None:
        self._entropy = entropy or SystemEntropy()
        self._now_ms = now_ms or _system_ms
        self._last_ms = 0
        self._counter = 0
        self._prefix = ""
        self._pool = ""
        self._at = 0

    def new(self, now_us: int | None = None) -> str:
        """A fresh id: 32 hexadecimal digits, sorting by time. `now_us`: who knows the time spares a look at the clock."""
        ms = self._now_ms() if now_us is None else now_us // 1000
        if ms > self._last_ms or self._counter >= 0xFFF:
            self._last_ms, self._counter = max(ms, self._last_ms + 1), 0
            self._prefix = f"{self._last_ms:012x}7"
        else:
            self._counter += 1
        at = self._at
        if at >= len(self._pool):
            # One system call for many ids: os.urandom costs as much as the rest of this function ten times over.
            self._pool, at = self._entropy.token(15 * 128).hex(), 0
        self._at = at + 15
        # The variant is two bits; the rest of its digit stays zero, which leaves 60 random bits beside the counter.
        return f"{self._prefix}{self._counter:03x}8{self._pool[at : at + 15]}"


def derive_id(subscription: str, generation: int, cause: str, ordinal: int) -> str:
    """The id of the `ordinal`-th event that a subscription's handler emits for the message `cause`."""
    digest = blake2b(f"{subscription}\0{generation}\0{cause}\0{ordinal}".encode(), digest_size=16).hexdigest()
    prefix = cause[:12]
    if len(cause) == 32 and cause[12] in "78" and _is_hex(prefix):
        # Version 8 of RFC 9562 is the one for ids built by a rule of one's own.
        return f"{prefix}8{digest[:3]}8{digest[3:18]}"
    return f"{digest[:12]}8{digest[12:15]}8{digest[15:30]}"


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdef" for c in text)


class _Now(Protocol):
    def __call__(self) -> int: ...


def _system_ms() -> int:
    return time.time_ns() // 1_000_000
