"""A flag that one task waits for: set from anywhere on the loop, cleared by waiting.

Level-triggered: what is set between two waits is not missed, and setting it many times wakes once.
"""

from __future__ import annotations

import asyncio

from ..clock import Clock

__all__ = ["Wake"]


class Wake:
    """One waiter at a time."""

    __slots__ = ("_clock", "_set", "_waiter")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter, or make the next wait return at once."""
        self._set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout: float) -> bool:
        """True once set (clears it), False after `timeout` seconds of the clock."""
        if not self._set:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiter = waiter
            timer = self._clock.call_later(timeout, lambda: waiter.done() or waiter.set_result(None))
            try:
                await waiter
            finally:
                timer.cancel()
                self._waiter = None
        was, self._set = self._set, False
        return was
