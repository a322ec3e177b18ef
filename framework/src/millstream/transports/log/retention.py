"""What the embedded log may delete: nothing that a subscription has still to read (rule L4).

A subscription is known from its first mark on; where it never marked a partition it has read nothing of it. Without
any mark nothing is deleted. Marks are kept in memory and written at most once a second: after a crash they are older
than the truth, which only keeps more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import apsw

from ...clock import Clock
from ...errors import TransportUnavailable
from ...ports.instrumentation import Instrumentation
from . import layout
from .layout import Marks, Stream

__all__ = ["Retention"]

DELETE_RECORDS = 1_000
"""Rows one transaction removes: about a millisecond of the writer."""
MARKS_EVERY = 1.0
"""Seconds between two writes of the marks."""
RETAIN_EVERY = 10.0
"""Seconds between two sweeps."""
TICKS = 1_000
"""Into how many steps the time that records are kept is cut."""

Write = Callable[[Callable[[apsw.Connection], Any]], Awaitable[Any]]


class Retention:
    """The marks of all subscriptions, and the rule.

    keep_us: records stay at least this long after they were written. keep_records: at least this many of a partition
    stay. Both hold.
    """

    def __init__(self, clock: Clock, instrumentation: Instrumentation, keep_us: int, keep_records: int) -> None:
        self._clock = clock
        self._instrumentation = instrumentation
        self._keep_us = keep_us
        self._keep_records = keep_records
        self._dirty: dict[tuple[str, str, int], int] = {}
        self.marks: Marks = {}

    def tick(self, stream: Stream) -> int | None:
        """The time to write down with the next records of a stream; None while the last one is fresh enough."""
        now_us = self._clock.now_us()
        if not self._keep_us or now_us < stream.next_tick_us:
            return None
        stream.next_tick_us = now_us + max(self._keep_us // TICKS, 1_000)
        return now_us

    def mark(self, subscription: str, stream: Stream, position: int) -> None:
        """Note how far a subscription has come. It may move back: a replay holds again what it will read."""
        self.marks.setdefault(stream.topic, {}).setdefault(subscription, {})[stream.partition] = position
        self._dirty[stream.topic, subscription, stream.partition] = position

    async def unmark(self, write: Write, subscription: str, topic: str) -> None:
        """Forget a subscription for good."""
        self.marks.get(topic, {}).pop(subscription, None)
        for mark in [mark for mark in self._dirty if mark[:2] == (topic, subscription)]:
            del self._dirty[mark]
        await write(lambda connection: layout.forget(connection, topic, subscription))

    async def save(self, write: Write) -> None:
        """Make the marks durable.

        Raises:
            TransportUnavailable: not now; they are kept for the next time.
        """
        if not self._dirty:
            return
        marks, self._dirty = self._dirty, {}
        rows = [(*mark, position) for mark, position in marks.items()]
        try:
            await write(lambda connection: layout.save_marks(connection, rows))
        except BaseException:
            self._dirty = marks | self._dirty
            raise

    async def sweep(
        self,
        write: Write,
        reader: apsw.Connection,
        after_commit: Callable[[Callable[[], object]], None],
        streams: Iterable[Stream],
    ) -> int:
        """Delete what may go, a little at a time; return how many records went."""

        def delete(stream: Stream, up_to: int, connection: apsw.Connection) -> None:
            layout.delete(connection, stream, up_to)
            after_commit(partial(stream.shrank, up_to))

        deleted = 0
        for stream in streams:
            limit = self._may_go(stream, reader)
            while stream.earliest < limit:
                up_to = min(stream.earliest + DELETE_RECORDS, limit)
                deleted += up_to - stream.earliest
                await write(partial(delete, stream, up_to))
        return deleted

    def _may_go(self, stream: Stream, reader: apsw.Connection) -> int:
        marks = self.marks.get(stream.topic)
        if not marks:
            return 0
        slowest = min(positions.get(stream.partition, 0) for positions in marks.values())
        limit = min(slowest, stream.head - self._keep_records)
        if limit > stream.earliest and self._keep_us:
            limit = min(limit, layout.written_before(reader, stream, self._clock.now_us() - self._keep_us))
        return limit

    async def keep_house(self, write: Write, sweep: Callable[[], Awaitable[int]]) -> None:
        """Save marks and sweep, for as long as the log is open. A failure is logged and tried again."""
        until_sweep = RETAIN_EVERY
        while True:
            await self._clock.sleep(MARKS_EVERY)
            until_sweep -= MARKS_EVERY
            try:
                await self.save(write)
                if until_sweep <= 0:
                    until_sweep = RETAIN_EVERY
                    await sweep()
            except (TransportUnavailable, apsw.Error) as error:
                self._instrumentation.log("warning", "log_housekeeping_failed", error=str(error))
