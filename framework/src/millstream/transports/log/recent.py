"""The newest records of a partition, kept in memory: whoever reads at the end does not ask the file for what has just
been written to it. Bounded, and only a copy: what is not here is read from the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...message import Record

__all__ = ["Recent"]

RECENT_BYTES = 256 * 1024
"""Of one partition. A few hundred records: readers that keep up are at most one batch behind."""


class Recent:
    """Committed records in log order, without a gap, up to the partition's head."""

    __slots__ = ("_after", "_bytes", "_records")

    def __init__(self, head: int) -> None:
        self._after = head
        self._bytes = 0
        self._records: list[Record] = []

    def add(self, records: Sequence[Record]) -> None:
        """The records that follow those that are here, now durable."""
        self._records += records
        self._bytes += sum(len(record.value) for record in records)
        if self._bytes > RECENT_BYTES:
            count = 0
            while self._bytes > RECENT_BYTES // 2:  # half at once: cutting off one by one moves the rest each time
                self._bytes -= len(self._records[count].value)
                count += 1
            self._drop(count)

    def forget(self, up_to: int) -> None:
        """Retention removed the records up to a position."""
        count = min(max(0, up_to - self._after), len(self._records))
        self._bytes -= sum(len(record.value) for record in self._records[:count])
        self._drop(count)

    def behind(self, after: int, limit: int) -> Sequence[Record] | None:
        """Up to `limit` records behind a position; None when not all of them are here."""
        start = after - self._after
        if start < 0 or start >= len(self._records):
            return None
        return self._records[start : start + limit]

    def _drop(self, count: int) -> None:
        del self._records[:count]
        self._after += count
