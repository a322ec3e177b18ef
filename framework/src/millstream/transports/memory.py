"""The log in memory: for tests, the simulator, and services of one process that may forget everything.

It keeps every promise of the port but one: nothing outlives the object, and `durability` says so. All of it happens
between two suspension points of the event loop, so there is no moment at which half a publish is visible.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, final

from ..errors import Misconfigured, PositionGone, RecordRefused, TransportUnavailable
from ..message import Record
from ..ports.transport import Bounds, Durability, Reader, TransportCapabilities

__all__ = ["MemoryTransport", "open_transport"]

LARGEST_RECORD_BYTES = 16 * 1024 * 1024
KEEP_RECORDS = 10_000
"""How many records a partition keeps that every subscription has read: enough to look at, not enough to fill memory."""


@final
class MemoryTransport:
    """A log that lives as long as this object; it may be opened again after it was closed.

    keep_records: how many records of a partition stay after the slowest marked subscription has read them.
    observe: called with a topic and the records appended to it, in the order over all its partitions.
    """

    def __init__(
        self,
        *,
        keep_records: int = KEEP_RECORDS,
        largest_record_bytes: int = LARGEST_RECORD_BYTES,
        observe: Callable[[str, Sequence[Record]], None] | None = None,
    ) -> None:
        self._observe = observe
        self._keep_records = keep_records
        self._largest = largest_record_bytes
        self._topics: dict[str, list[_Partition]] = {}
        self._marks: dict[str, dict[str, dict[int, int]]] = {}  # topic, subscription, partition
        self._open = False

    @property
    def capabilities(self) -> TransportCapabilities:
        return TransportCapabilities(
            name="memory",
            survives_restart=False,
            several_processes=False,
            retention_by_position=True,
            largest_record_bytes=self._largest,
            batch_is_atomic=True,
        )

    async def durability(self) -> Durability:
        return Durability(
            process_crash=False, power_loss=False, why_not="records live in memory only; use the log or a broker"
        )

    async def provision(self, topic: str, partitions: int) -> None:
        self._check_open()
        if partitions < 1:
            raise Misconfigured(f"topic {topic}: {partitions} partitions; a topic has at least one")
        existing = self._topics.get(topic)
        if existing is None:
            self._topics[topic] = [_Partition(topic, number) for number in range(partitions)]
        elif len(existing) != partitions:
            raise Misconfigured(
                f"topic {topic} has {len(existing)} partitions, not {partitions}; changing the count is drain and switch"
            )

    async def partitions(self, topic: str) -> int | None:
        self._check_open()
        found = self._topics.get(topic)
        return None if found is None else len(found)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        self._check_open()
        found = self._partition(topic, partition)
        return Bounds(earliest=found.earliest, latest=found.latest)

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        self._check_open()
        found = self._partition(topic, partition)
        for index, record in enumerate(records):
            if len(record.value) > self._largest:
                self._append(found, records[:index])
                raise RecordRefused(index, f"{len(record.value)} bytes, this log carries {self._largest}")
        self._append(found, records)
        return len(records)

    def _append(self, partition: _Partition, records: Sequence[Record]) -> None:
        partition.append(records)
        if self._observe is not None and records:
            self._observe(partition.topic, records)

    def read(self, topic: str, partition: int, after: int) -> Reader:
        return _MemoryReader(self, topic, partition, after)

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        found = self._partition(topic, partition)
        self._marks.setdefault(topic, {}).setdefault(subscription, {})[partition] = position
        self._trim(found)

    async def unmark(self, subscription: str, topic: str) -> None:
        self._marks.get(topic, {}).pop(subscription, None)
        for found in self._topics.get(topic, ()):
            self._trim(found)

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for partitions in self._topics.values():
            for partition in partitions:
                partition.wake()

    def _trim(self, partition: _Partition) -> None:
        marks = self._marks.get(partition.topic)
        if marks:  # with nobody marked, nobody is known to have read anything
            slowest = min(positions.get(partition.number, 0) for positions in marks.values())
            partition.trim(min(slowest, partition.latest - self._keep_records))

    def _check_open(self) -> None:
        if not self._open:
            raise TransportUnavailable("the memory log is closed")

    def _partition(self, topic: str, number: int) -> _Partition:
        partitions = self._topics.get(topic)
        if partitions is None:
            raise Misconfigured(f"topic {topic} is not provisioned; there are: {', '.join(self._topics) or 'none'}")
        if not 0 <= number < len(partitions):
            raise Misconfigured(f"topic {topic} has partitions 0 to {len(partitions) - 1}, not {number}")
        return partitions[number]


class _Partition:
    """Records at consecutive positions: `records[0]` stands at `earliest + 1`."""

    __slots__ = ("earliest", "number", "records", "topic", "waiters")

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.records: list[Record] = []
        self.earliest = 0
        self.waiters: set[asyncio.Future[None]] = set()

    @property
    def latest(self) -> int:
        return self.earliest + len(self.records)

    def append(self, records: Sequence[Record]) -> None:
        first = self.latest + 1
        self.records.extend(
            Record(record.value, record.key, position) for position, record in enumerate(records, first)
        )
        if records:
            self.wake()

    def trim(self, up_to: int) -> None:
        if up_to > self.earliest:
            del self.records[: up_to - self.earliest]
            self.earliest = up_to

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


class _MemoryReader:
    def __init__(self, log: MemoryTransport, topic: str, partition: int, after: int) -> None:
        self._log = log
        self._topic = topic
        self._number = partition
        self._after = after

    async def next(self, limit: int) -> Sequence[Record]:
        while True:
            self._log._check_open()  # pyright: ignore[reportPrivateUsage] - one module, two halves
            partition = self._log._partition(self._topic, self._number)  # pyright: ignore[reportPrivateUsage] - as above
            if not partition.earliest <= self._after <= partition.latest:
                raise PositionGone(self._topic, self._number, self._after, partition.earliest)
            if self._after < partition.latest:
                start = self._after - partition.earliest
                found = partition.records[start : start + limit]
                self._after += len(found)
                return found
            await self._wait(partition)

    async def _wait(self, partition: _Partition) -> None:
        waiter = asyncio.get_running_loop().create_future()
        partition.waiters.add(waiter)
        try:
            await waiter
        finally:
            partition.waiters.discard(waiter)

    async def aclose(self) -> None: ...


def open_transport(url: str, context: object) -> MemoryTransport:  # noqa: ARG001 - what every factory takes
    """Entry point: the URL is `memory:`; it takes no options."""
    return MemoryTransport()
