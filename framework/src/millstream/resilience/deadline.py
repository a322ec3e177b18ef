"""How long somebody still waits: a moment that travels with requests, events and calls.

A deadline is a moment, not a duration, so that passing it on does not lengthen it. Between processes it is wall-clock
time (`deadline_us` of a caller or a call, RFC 3339 in a message); inside one it is measured on the monotonic clock, so
that a wall clock that jumps ends no call early.
"""

from __future__ import annotations

from ..clock import Clock
from ..errors import Transient
from ..message import format_time, parse_time

__all__ = ["Deadline", "DeadlineExceeded"]


class DeadlineExceeded(Transient):
    """Nobody waits for the outcome any more; whether it happened may be unknown."""


class Deadline:
    """The moment after which nobody waits. Without a moment (`Deadline.never`) there is always time left."""

    __slots__ = ("_at", "_clock")

    def __init__(self, clock: Clock, at: float | None) -> None:
        """`at` is a moment of `clock.monotonic()`; use `after` or one of the `from_…` instead."""
        self._clock = clock
        self._at = at

    @classmethod
    def never(cls, clock: Clock) -> Deadline:
        """No deadline."""
        return cls(clock, None)

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """`seconds` from now."""
        return cls(clock, clock.monotonic() + seconds)

    @classmethod
    def from_us(cls, clock: Clock, deadline_us: int | None) -> Deadline:
        """From a wall-clock moment in microseconds; None is no deadline."""
        if deadline_us is None:
            return cls(clock, None)
        return cls.after(clock, (deadline_us - clock.now_us()) / 1e6)

    @classmethod
    def from_text(cls, clock: Clock, text: str | None) -> Deadline:
        """From the `deadline` of a message; None is no deadline.

        Raises:
            Undecodable: the text is no RFC 3339 time.
        """
        return cls.from_us(clock, None if text is None else parse_time(text))

    def to_us(self) -> int | None:
        """The wall-clock moment in microseconds, for another process."""
        remaining = self.remaining()
        return None if remaining is None else self._clock.now_us() + round(remaining * 1e6)

    def to_text(self) -> str | None:
        """The moment as a message carries it."""
        moment = self.to_us()
        return None if moment is None else format_time(moment)

    def remaining(self) -> float | None:
        """Seconds left, not below 0; None where there is no deadline."""
        return None if self._at is None else max(0.0, self._at - self._clock.monotonic())

    @property
    def passed(self) -> bool:
        """Whether nobody waits any more."""
        return self._at is not None and self._at <= self._clock.monotonic()

    def earliest(self, *others: Deadline) -> Deadline:
        """The first of this deadline and others of the same clock."""
        moments = [deadline._at for deadline in (self, *others) if deadline._at is not None]
        return Deadline(self._clock, min(moments, default=None))

    def within(self, seconds: float) -> Deadline:
        """This deadline, but at most `seconds` from now: the budget of one step of a longer work."""
        return self.earliest(Deadline.after(self._clock, seconds))

    def check(self) -> None:
        """Refuse to begin what nobody waits for.

        Raises:
            DeadlineExceeded: it has passed.
        """
        if self.passed:
            raise DeadlineExceeded("the deadline has passed: nobody waits for the outcome any more")
