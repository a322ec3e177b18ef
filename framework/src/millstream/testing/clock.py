"""A clock that stands still until a test moves it.

It fulfils `millstream.clock.Clock`: the wall clock and the monotonic one move together, timers fire in the order of their
moments (those of one moment in the order in which they were asked for), each in the context it was asked for in. Between
two of them the event loop runs until nothing in it is ready, so that what one timer sets off is over, or waits again,
before the next fires.

Not waited for: threads and sockets. A test that needs their outcome waits for it on a condition.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable
from itertools import count

__all__ = ["ManualClock"]

_SETTLE_LIMIT = 10_000
"""Steps of the loop after which something that never waits is taken for a hot loop."""
_SAME_MOMENT = 5e-7
"""Seconds by which two moments of one microsecond may differ."""
_BLIND_STEPS = 100
"""Steps on a loop that does not show what is ready (uvloop)."""


class _Timer:
    __slots__ = ("callback", "cancelled", "context", "due")

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback = callback
        self.context = contextvars.copy_context()
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call back. Nothing happens when it was called already."""
        self.cancelled = True

    def fire(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self.callback()


class ManualClock:
    """Implements `Clock`. `start_us`: the wall clock's first moment, microseconds since 1970."""

    def __init__(self, start_us: int = 1_750_000_000_000_000) -> None:
        self._start_us = start_us
        self.busy: Callable[[], bool] = lambda: False
        """Whether something beside the loop, such as a commit in its thread, is at work: time waits for it."""
        self._elapsed = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._order = count()

    def now_us(self) -> int:
        """The wall clock."""
        return self._start_us + round(self._elapsed * 1e6)

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed

    async def sleep(self, delay: float) -> None:
        """Return once the clock was moved by `delay` seconds; at once, after a step of the loop, for 0 or less."""
        if delay <= 0:
            await asyncio.sleep(0)
            return
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(delay, lambda: awake.done() or awake.set_result(None))
        try:
            await awake
        finally:
            timer.cancel()

    def call_later(self, delay: float, callback: Callable[[], object]) -> _Timer:
        """Call back once the clock was moved by `delay` seconds, unless cancelled."""
        timer = _Timer(self._elapsed + max(delay, 0.0), callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    @property
    def waiting(self) -> int:
        """How many timers are set."""
        return sum(not timer.cancelled for _, _, timer in self._timers)

    async def advance(self, seconds: float) -> None:
        """Move by `seconds`; everything that is due up to then, the end included, has happened when this returns.

        An exception of a callback goes to the loop's exception handler, as with the real clock.

        Raises:
            ValueError: the clock would go back.
            RuntimeError: something on the loop never waits.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back: {seconds}")
        await self._settle()
        await self._run_until(self._elapsed + seconds)

    async def advance_to_next(self) -> bool:
        """Move to the next moment that somebody waits for, and let all of that moment happen; False if nobody waits.

        Raises:
            RuntimeError: something on the loop never waits.
        """
        await self._settle()
        due = self._next_due()
        if due is None:
            return False
        await self._run_until(max(due, self._elapsed))
        return True

    async def _run_until(self, target: float) -> None:
        # The wall clock counts whole microseconds. What it shows as reached is due, though sums of fractions of seconds
        # made its moment lie a hair beyond.
        while (due := self._next_due()) is not None and due <= target + _SAME_MOMENT:
            await self._fire_next()
        self._elapsed = max(self._elapsed, target)

    def _next_due(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    async def _fire_next(self) -> None:
        due, _, timer = heapq.heappop(self._timers)
        self._elapsed = max(self._elapsed, due)
        asyncio.get_running_loop().call_soon(timer.fire, context=timer.context)
        await self._settle()

    async def _settle(self) -> None:
        await self._rest()
        while self.busy():
            await asyncio.sleep(0.0002)  # real time: a thread is at work
            await self._rest()

    async def _rest(self) -> None:
        # While this task runs, `_ready` of CPython's loops holds what else is to run; empty, all others wait.
        ready = getattr(asyncio.get_running_loop(), "_ready", None)
        if ready is None:
            for _ in range(_BLIND_STEPS):
                await asyncio.sleep(0)
            return
        for _ in range(_SETTLE_LIMIT):
            await asyncio.sleep(0)
            if not ready:
                return
        raise RuntimeError("the loop does not come to rest: a task spins without waiting for anything")
