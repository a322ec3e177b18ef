"""What may be deleted: nothing that a subscription has still to read (rule L4).

A subscription is known from its first mark on; where it never marked a partition it has read nothing of it. Without any
mark nothing is deleted. The first mark of a place, and one that moves back, are written at once, since they hold records;
those that move on are written every few seconds: late ones only keep more.
"""

from __future__ import annotations

from ...clock import Clock
from ...errors import MillstreamError
from ...ports.instrumentation import Instrumentation
from ...postgresql.pool import Pool, SharedConnection
from . import layout

__all__ = ["Retention"]

DELETE_RECORDS = 5_000
"""Rows of a partition that one transaction removes: some ten milliseconds of the server."""
MARKS_EVERY = 5.0
"""Seconds between two writes of the marks. Each leaves dead rows, which a long transaction elsewhere keeps."""
SWEEP_EVERY = 10.0
"""Seconds between two sweeps."""

Place = tuple[str, str, int]
"""Topic, subscription, partition."""


class Retention:
    """keep_seconds: records stay at least this long after they were written, by the server's clock."""

    def __init__(
        self,
        pool: Pool,
        scanner: SharedConnection,
        clock: Clock,
        instrumentation: Instrumentation,
        keep_seconds: float,
    ) -> None:
        self._pool = pool
        self._scanner = scanner
        self._clock = clock
        self._instrumentation = instrumentation
        self._keep_seconds = keep_seconds
        self._marks: dict[Place, int] = {}
        self._dirty: dict[Place, int] = {}

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        """Note how far a subscription has come. It may move back: a replay holds again what it will read."""
        place = (topic, subscription, partition)
        before = self._marks.get(place)
        if before is not None and before <= position:
            self._marks[place] = self._dirty[place] = position
            return
        self._dirty.pop(place, None)
        self._marks.pop(place, None)
        await self._pool.run([layout.save_marks([(*place, position)])])
        self._marks[place] = position

    async def unmark(self, subscription: str, topic: str) -> None:
        """Forget a subscription for good."""
        for marks in (self._marks, self._dirty):
            for place in [place for place in marks if place[:2] == (topic, subscription)]:
                del marks[place]
        await self._pool.run([layout.forget(topic, subscription)])

    async def save(self) -> None:
        """Write the marks that moved on; after an error they are kept for the next time."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        try:
            await self._pool.run([layout.save_marks([(*place, position) for place, position in sorted(dirty.items())])])
        except BaseException:
            self._dirty = dirty | self._dirty
            raise

    async def sweep(self) -> int:
        """Delete what may go, a little at a time; return how many records went."""
        deleted = 0
        while True:
            full = False
            for stream, earliest, up_to in await self._scanner.fetch(
                layout.find_deletable(DELETE_RECORDS, self._keep_seconds)
            ):
                *_, gone = await self._pool.run(layout.delete(stream, earliest, up_to))
                deleted += int(gone.command_tuples or 0)
                full = full or up_to - earliest >= DELETE_RECORDS
            if not full:
                return deleted

    async def keep_house(self) -> None:
        """Save marks and sweep, for as long as the log is open. A failure is logged and tried again."""
        until_sweep = SWEEP_EVERY
        while True:
            await self._clock.sleep(MARKS_EVERY)
            until_sweep -= MARKS_EVERY
            try:
                await self.save()
                if until_sweep <= 0:
                    until_sweep = SWEEP_EVERY
                    await self.sweep()
            except MillstreamError as error:
                self._instrumentation.log("warning", "log_housekeeping_failed", error=str(error))
