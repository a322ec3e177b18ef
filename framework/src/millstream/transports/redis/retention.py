"""What may be deleted: nothing that a subscription has still to read (rule L4).

A subscription is known from its first mark on; where it never marked a partition it has read nothing of it. Without any
mark nothing is deleted. The first mark of a place, and one that moves back, are written at once, since they hold records;
those that move on are written once a second: late ones only keep more. Reading the marks and trimming is one script, so no
mark comes in between.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...clock import Clock
from ...errors import TransportUnavailable
from ...ports.instrumentation import Instrumentation
from .connections import Connections
from .entries import Keys
from .scripts import MARK, RETAIN

__all__ = ["Retention"]

TRIM_RECORDS = 10_000
"""Entries that one script removes: about a millisecond, in which the server does nothing else."""
MARKS_EVERY = 1.0
"""Seconds between two writes of the marks."""
RETAIN_EVERY = 10.0
"""Seconds between two sweeps."""
TICKS = 1_000
"""Into how many steps the time that records are kept is cut."""

Place = tuple[str, str, int]
"""Subscription, topic, partition."""


class Retention:
    """keep_ms: records stay at least this long after they were written."""

    def __init__(
        self, connections: Connections, keys: Keys, clock: Clock, instrumentation: Instrumentation, keep_ms: int
    ) -> None:
        self._connections = connections
        self._keys = keys
        self._clock = clock
        self._instrumentation = instrumentation
        self._keep_ms = keep_ms
        self._marks: dict[Place, int] = {}
        self._dirty: dict[Place, int] = {}

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        """Note how far a subscription has come. It may move back: a replay holds again what it will read."""
        place = (subscription, topic, partition)
        before = self._marks.get(place)
        if before is not None and before <= position:
            self._marks[place] = self._dirty[place] = position
            return
        self._dirty.pop(place, None)
        self._marks.pop(place, None)
        # With the name: from here on the subscription holds every partition that it has not marked.
        keys = [self._keys.marks(topic, partition), self._keys.subscriptions(topic)]
        await self._connections.run(MARK, keys, subscription, position)
        self._marks[place] = position

    async def unmark(self, subscription: str, topic: str, partitions: int) -> None:
        """Forget a subscription for good."""
        for partition in range(partitions):
            self._dirty.pop((subscription, topic, partition), None)
            self._marks.pop((subscription, topic, partition), None)
        await self._connections.do("SREM", self._keys.subscriptions(topic), subscription)
        for partition in range(partitions):
            await self._connections.do("HDEL", self._keys.marks(topic, partition), subscription)

    async def save(self) -> None:
        """Write the marks that moved on.

        Raises:
            TransportUnavailable: not now; they are kept for the next time.
        """
        by_hash: dict[str, list[str | int]] = {}
        dirty, self._dirty = self._dirty, {}
        for (subscription, topic, partition), position in dirty.items():
            by_hash.setdefault(self._keys.marks(topic, partition), []).extend((subscription, position))
        try:
            for key, fields in by_hash.items():
                await self._connections.run(MARK, [key], *fields)
        except BaseException:
            self._dirty = dirty | self._dirty
            raise

    async def sweep(self, topics: Mapping[str, int]) -> int:
        """Delete what may go, a little at a time; return how many records went."""
        deleted = 0
        spacing = max(self._keep_ms // TICKS, 1)
        for topic, partitions in topics.items():
            for partition in range(partitions):
                keys = [
                    self._keys.stream(topic, partition),
                    self._keys.marks(topic, partition),
                    self._keys.subscriptions(topic),
                    self._keys.times(topic, partition),
                ]
                went = TRIM_RECORDS
                while went == TRIM_RECORDS:
                    now_ms = self._clock.now_us() // 1000
                    went = await self._connections.run(RETAIN, keys, now_ms, self._keep_ms, spacing, TRIM_RECORDS)
                    deleted += went
        return deleted

    async def keep_house(self, topics: Mapping[str, int]) -> None:
        """Save marks and sweep, for as long as the log is open. A failure is logged and tried again."""
        until_sweep = RETAIN_EVERY
        while True:
            await self._clock.sleep(MARKS_EVERY)
            until_sweep -= MARKS_EVERY
            try:
                await self.save()
                if until_sweep <= 0:
                    until_sweep = RETAIN_EVERY
                    await self.sweep(dict(topics))
            except TransportUnavailable as error:
                self._instrumentation.log("warning", "log_housekeeping_failed", error=str(error))
