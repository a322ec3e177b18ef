"""A bulkhead: so many at once, so many waiting, the rest is refused at once.

One slow thing may fill its own compartment and no other. Who waits is served in the order of arrival, and waits no longer
than `patience`: a queue in which everybody's caller has given up does work for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..clock import Clock
from ..errors import Busy, Misconfigured

__all__ = ["Bulkhead", "BulkheadFull"]


class BulkheadFull(Busy):
    """No place became free in time, or too many wait already."""

    def __init__(self, name: str, running: int, waiting: int) -> None:
        super().__init__(f"{name}: {running} at once and {waiting} waiting are its bounds; wait, or raise them")
        self.name = name


class Bulkhead:
    """At most `concurrency` blocks at once, at most `queue` waiting, each for at most `patience` seconds."""

    def __init__(self, name: str, clock: Clock, *, concurrency: int, queue: int, patience: float) -> None:
        if concurrency < 1 or queue < 0 or patience < 0:
            raise Misconfigured(f"bulkhead {name}: concurrency is at least 1, queue and patience are not below 0")
        self._name = name
        self._clock = clock
        self._concurrency = concurrency
        self._queue = queue
        self._patience = patience
        self._running = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @property
    def running(self) -> int:
        """Places taken."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """Hold a place for a block. Cancelled while it waits, it has taken nothing.

        Raises:
            BulkheadFull: too many wait already, or none became free within `patience`.
        """
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self._running < self._concurrency:
            self._running += 1
            return
        if len(self._waiting) >= self._queue:
            raise self._full()
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        timer = self._clock.call_later(self._patience, lambda: self._give_up(turn))
        try:
            taken = await turn
        except asyncio.CancelledError:
            # The place may have been handed over in the same step of the loop: it must not get lost.
            if turn.done() and not turn.cancelled() and turn.result():
                self._leave()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        finally:
            timer.cancel()
        if not taken:
            raise self._full()

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)  # handed over directly: nobody who comes now can get in between
                return
        self._running -= 1

    def _give_up(self, turn: asyncio.Future[bool]) -> None:
        if not turn.done():
            self._waiting.remove(turn)
            turn.set_result(False)

    def _full(self) -> BulkheadFull:
        return BulkheadFull(self._name, self._concurrency, self._queue)
