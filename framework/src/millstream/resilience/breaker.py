"""A circuit breaker: stop calling what keeps failing, and find out with single calls when it is well again.

    closed ── enough calls, too large a share failed or slow ──► open ── `pause` ──► half-open: one probe
       ▲                                                          ▲                          │
       └────────────────────── the probe succeeded ───────────────┴──── the probe failed ────┘

An open breaker refuses with `BreakerOpen`, which blames nobody: a message gets its start back, no attempt is used up.
Source: M. Nygard, "Release It!", the circuit breaker; slow calls count as in Resilience4j.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import msgspec

from ..clock import Clock
from ..errors import Busy, Misconfigured

__all__ = ["Breaker", "BreakerOpen", "BreakerPolicy", "BreakerState", "Permit"]

BreakerState = Literal["closed", "open", "half_open"]
_SLICES = 10
"""The window moves in tenths: ten small counts instead of a record per call."""


class BreakerOpen(Busy):
    """Refused without a call. `retry_after`: seconds after which asking again makes sense."""

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(f"{name} keeps failing: not called for another {retry_after:.1f} s")
        self.name = name
        self.retry_after = retry_after


class BreakerPolicy(msgspec.Struct, frozen=True):
    """When to open and when to probe.

    window: seconds of calls that count. least_calls: fewer say nothing. share: of them failed or slow opens.
    slow_after: seconds from which a successful call counts as bad, too. pause: seconds from opening to the probe.
    """

    window: float = 30.0
    least_calls: int = 20
    share: float = 0.5
    slow_after: float = 10.0
    pause: float = 5.0

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and self.least_calls >= 1 and min(self.window, self.slow_after, self.pause) > 0):
            raise Misconfigured(f"{self}: share is above 0 and at most 1, the others are above 0")


class Permit:
    """The right to make one call. Exactly one of `ended` or `withdrawn` ends it; later ones do nothing."""

    __slots__ = ("_began", "_breaker", "_epoch", "_open")

    def __init__(self, breaker: Breaker, epoch: int, began: float) -> None:
        self._breaker = breaker
        self._epoch = epoch
        self._began = began
        self._open = True

    def ended(self, ok: bool) -> None:
        """The call came to an end; `ok` says whether the other side did its part."""
        self._end(ok)

    def withdrawn(self) -> None:
        """The call was given up for reasons of our own (a cancellation): it says nothing about the other side."""
        self._end(None)

    def _end(self, ok: bool | None) -> None:
        if self._open:
            self._open = False
            self._breaker._ended(self._epoch, self._began, ok)  # pyright: ignore[reportPrivateUsage] - its other half


class Breaker:
    """One for each thing that can fail by itself: a host, a provider. Shared by all calls to it in this process."""

    def __init__(self, name: str, clock: Clock, policy: BreakerPolicy | None = None) -> None:
        self.name = name
        self._clock = clock
        self._policy = policy or BreakerPolicy()
        self._slices: deque[list[int]] = deque()  # [number of the slice, calls, bad ones]
        self._opened_at: float | None = None
        self._probing = False
        self._epoch = 0  # a call that began before the state changed must not decide about the new one

    @property
    def state(self) -> BreakerState:
        """`half_open`: a probe may go or is under way."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._probing or self._wait() <= 0 else "open"

    def admit(self) -> Permit:
        """Ask before a call.

        Raises:
            BreakerOpen: the other side keeps failing, and it is not yet time for a probe, or one is under way.
        """
        if self._opened_at is not None:
            wait = self._wait()
            if wait > 0 or self._probing:
                raise BreakerOpen(self.name, wait if wait > 0 else self._policy.pause)
            self._probing = True
        return Permit(self, self._epoch, self._clock.monotonic())

    @contextmanager
    def call(self, *, blames: type[Exception] | tuple[type[Exception], ...] = Exception) -> Generator[None]:
        """One call: an exception of `blames` counts as the other side's failure, another one as its answer.

        Raises:
            BreakerOpen: see `admit`.
        """
        permit = self.admit()
        try:
            yield
        except blames:
            permit.ended(ok=False)
            raise
        except Exception:
            permit.ended(ok=True)
            raise
        except BaseException:
            permit.withdrawn()
            raise
        permit.ended(ok=True)

    def _wait(self) -> float:
        opened_at = self._clock.monotonic() if self._opened_at is None else self._opened_at
        return opened_at + self._policy.pause - self._clock.monotonic()

    def _ended(self, epoch: int, began: float, ok: bool | None) -> None:
        if epoch != self._epoch:
            return
        now = self._clock.monotonic()
        bad = not ok or now - began >= self._policy.slow_after
        if self._probing:
            self._probing = False
            if ok is not None:
                self._turn(now if bad else None)
        elif ok is not None and self._too_many_bad(now, bad) and bad:  # a good call never opens it
            self._turn(now)

    def _turn(self, opened_at: float | None) -> None:
        self._opened_at = opened_at
        self._epoch += 1
        self._slices.clear()

    def _too_many_bad(self, now: float, bad: bool) -> bool:
        number = int(now / self._policy.window * _SLICES)
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append([number, 0, 0])
        self._slices[-1][1] += 1
        self._slices[-1][2] += bad
        while self._slices[0][0] <= number - _SLICES:
            self._slices.popleft()
        calls = sum(part[1] for part in self._slices)
        return calls >= self._policy.least_calls and sum(part[2] for part in self._slices) >= self._policy.share * calls
