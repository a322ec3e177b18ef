"""Requests first: while somebody waits for a reply, background work keeps to its share of the event loop.

Batches and turns run inline, so they and the requests share one thread. Without a rule a burst of requests is served
at the pace of everything that follows from them; with it, work that is durable already waits a little longer. The
share is a floor as well: a backlog always shrinks.
"""

from __future__ import annotations

from collections.abc import Callable

from ..clock import Clock

__all__ = ["BACKGROUND_SHARE", "Pacer"]

BACKGROUND_SHARE = 0.25
"""Of the loop's time, while requests are under way. It counts batches and turns; relay, effects' own calls and commits come
on top, so that in practice a burst of requests gets about half of the loop."""


class Pacer:
    """One for a process. `busy` tells whether requests are under way; without an edge it never is."""

    __slots__ = ("_clock", "_free_at", "_rest", "busy")

    def __init__(self, clock: Clock, share: float = BACKGROUND_SHARE) -> None:
        self._clock = clock
        self._rest = (1 - share) / share
        self._free_at = 0.0
        self.busy: Callable[[], bool] = lambda: False

    async def turn(self) -> None:
        """Wait until background work may run."""
        while self.busy() and (wait := self._free_at - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait)

    def used(self, seconds: float) -> None:
        """Account for loop time that background work just took."""
        if self.busy():
            self._free_at = max(self._free_at, self._clock.monotonic()) + seconds * self._rest
