"""When to try again, and how often.

Full jitter: AWS Architecture Blog, "Exponential Backoff and Jitter": the delay is uniform between zero and the
exponential bound, which spreads a crowd of retries best for the work it costs.
"""

from __future__ import annotations

import msgspec

from ..clock import Duration, seconds
from ..errors import Misconfigured

__all__ = ["Retry"]


class Retry(msgspec.Struct, frozen=True):
    """How a failing message or call is tried again.

    attempts: verdicts of the handler before the message becomes a dead letter (8: with the delays below, a minute or
        two of outage heal by themselves).
    first, cap: bound of the first delay, and the largest bound.
    factor: how much the bound grows from attempt to attempt.
    jitter: False keeps the bound itself, for tests and for schedules that people read.
    """

    attempts: int = 8
    first: Duration = "1s"
    cap: Duration = "1m"
    factor: float = 2.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.factor < 1 or seconds(self.first) < 0 or seconds(self.cap) < seconds(self.first):
            raise Misconfigured(f"{self}: attempts and factor are at least 1, and cap is not below first")

    def delay(self, attempt: int, random: float) -> float:
        """Seconds to wait after the `attempt`-th failure (counting from 1), for a random number in [0, 1)."""
        # min on the exponent keeps the power finite for attempts beyond any cap.
        bound = min(seconds(self.cap), seconds(self.first) * self.factor ** min(attempt - 1, 60))
        return bound * random if self.jitter else bound

    def horizon(self) -> float:
        """The longest time in seconds that a message may be retried before it is a dead letter."""
        return sum(self.delay(n, 1.0) for n in range(1, self.attempts))
