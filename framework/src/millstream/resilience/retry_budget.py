"""A budget for retries: when most calls fail, trying each of them again doubles the load that made them fail.

Every first try earns a fraction of a token, every retry spends one. While few calls fail the budget is full and each may
be tried again; while all fail, retries are that fraction of the calls and no more. A little flows in with time, so that
a client that calls seldom may retry, too.
Source: Finagle's `RetryBudget`, and gRPC's retry throttling (gRFC A6).
"""

from __future__ import annotations

from ..clock import Clock
from ..errors import Misconfigured

__all__ = ["RetryBudget"]


class RetryBudget:
    """One for each client; shared by all its calls.

    share: retries per first try (0.2: at most a fifth of load more). per_second: what flows in besides (1).
    most: tokens that can be saved up, the longest burst of retries (10). It begins full.
    """

    def __init__(self, clock: Clock, *, share: float = 0.2, per_second: float = 1.0, most: float = 10.0) -> None:
        if share < 0 or per_second < 0 or most < 1:
            raise Misconfigured(
                f"retry budget: share={share} and per_second={per_second} not below 0, most={most} >= 1"
            )
        self._clock = clock
        self._share = share
        self._per_second = per_second
        self._most = most
        self._tokens = most
        self._at = clock.monotonic()

    @property
    def tokens(self) -> float:
        """How many retries may be made now."""
        now = self._clock.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        return self._tokens

    def earn(self) -> None:
        """A call was made for the first time."""
        self._tokens = min(self._most, self.tokens + self._share)

    def spend(self) -> bool:
        """Whether a retry may be made; if so it is paid for."""
        if self.tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
