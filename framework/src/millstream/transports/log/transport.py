"""The transport port on one SQLite file, durable with `synchronous=FULL`, for one process.

Writing goes through the file's group commit; reading is a few microseconds inline, and waiting is a future that the
commit completes. Left to the caller: one process at a time (a second one is refused), a local disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, final

import apsw
import msgspec

from ...clock import Clock, SystemClock, seconds
from ...errors import Misconfigured, PositionGone, RecordRefused, StoreUnavailable, TransportUnavailable
from ...message import Record
from ...ports.instrumentation import Instrumentation, Silent
from ...ports.transport import Bounds, Durability, Reader, TransportCapabilities
from ...sqlite.file import SqliteFile
from . import layout
from .layout import Stream
from .retention import Retention

__all__ = ["LogOptions", "LogTransport"]

R = TypeVar("R")
LARGEST_RECORD_BYTES = 16 * 1024 * 1024


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How long records stay after every subscription has read them, and how large one may be.

    keep: at least this long after they were written. keep_records: at least this many in a partition. Both hold.
    synchronous: anything below `FULL` is for measurements.
    """

    keep: str | float = "3d"
    keep_records: int = 0
    largest_record_bytes: int = LARGEST_RECORD_BYTES
    synchronous: str = "FULL"


@final
class LogTransport:
    """The log in one file. Open with `async with`; when it closes, every reader that waits gets an error."""

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        instrumentation: Instrumentation | None = None,
        options: LogOptions = LogOptions(),  # noqa: B008 - immutable
    ) -> None:
        clock = clock or SystemClock()
        self._options = options
        self._file = SqliteFile(
            path, clock=clock, name="log", synchronous=options.synchronous, instrumentation=instrumentation
        )
        keep_us = round(seconds(options.keep) * 1e6)
        self._retention = Retention(clock, instrumentation or Silent(), keep_us, options.keep_records)
        self._topics: dict[str, list[Stream]] = {}
        self._open = False

    @property
    def capabilities(self) -> TransportCapabilities:
        return TransportCapabilities(
            name="log",
            survives_restart=True,
            several_processes=False,
            retention_by_position=True,
            largest_record_bytes=self._options.largest_record_bytes,
            batch_is_atomic=True,
        )

    async def durability(self) -> Durability:
        settings = self._file.settings()
        mode, synchronous = settings["journal_mode"], settings["synchronous"]
        if mode == "wal" and synchronous in (2, 3):
            return Durability(process_crash=True, power_loss=True)
        why = f"journal_mode is {mode} and synchronous {synchronous}; the log needs wal and FULL (2)"
        return Durability(process_crash=True, power_loss=False, why_not=why)

    # -- topics -------------------------------------------------------------------------------------------------

    async def provision(self, topic: str, partitions: int) -> None:
        if partitions < 1:
            raise Misconfigured(f"topic {topic}: {partitions} partitions; a topic has at least one")
        if await self.partitions(topic) is None:
            await self._write(partial(self._create, topic, partitions))
        existing = await self.partitions(topic)
        if existing != partitions:
            raise Misconfigured(
                f"topic {topic} has {existing} partitions, not {partitions}; changing the count is drain and switch"
            )

    def _create(self, topic: str, partitions: int, connection: apsw.Connection) -> None:
        streams = layout.create_topic(connection, topic, partitions)
        if streams is not None:
            self._file.after_commit(lambda: self._topics.update({topic: streams}))

    async def partitions(self, topic: str) -> int | None:
        self._check_open()
        streams = self._topics.get(topic)
        return None if streams is None else len(streams)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        stream = self._stream(topic, partition)
        return Bounds(earliest=stream.earliest, latest=stream.head)

    # -- records ------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        stream = self._stream(topic, partition)
        largest = self._options.largest_record_bytes
        refused = next((index for index, record in enumerate(records) if len(record.value) > largest), None)
        durable = records[:refused]
        if durable:
            await self._write(partial(self._append, stream, durable))
        if refused is not None:
            raise RecordRefused(refused, f"{len(records[refused].value)} bytes, this log carries {largest}")
        return len(records)

    def _append(self, stream: Stream, records: Sequence[Record], connection: apsw.Connection) -> None:
        placed = layout.append(connection, stream, records, self._retention.tick(stream))
        # With the commit and not behind `write`: a caller that gave up must not take the wake-up with it.
        self._file.after_commit(partial(stream.grew, placed))

    def read(self, topic: str, partition: int, after: int) -> Reader:
        return _LogReader(self, topic, partition, after)

    async def next(self, topic: str, partition: int, after: int, limit: int) -> Sequence[Record]:
        """What `Reader.next` promises, for a reader that stands at `after`."""
        while True:
            stream = self._stream(topic, partition)
            if after < stream.head:
                return self._fetch(stream, after, limit)
            if after > stream.head:
                # A file that was lost or put back: waiting here would skip what gets these positions next.
                raise PositionGone(topic, partition, after, stream.earliest)
            waiter = asyncio.get_running_loop().create_future()
            stream.waiters.add(waiter)
            try:
                await waiter
            finally:
                stream.waiters.discard(waiter)

    def _fetch(self, stream: Stream, after: int, limit: int) -> Sequence[Record]:
        recent = stream.recent.behind(after, limit)
        if recent is not None:
            return recent
        try:
            found = layout.fetch(self._file.reader, stream, after, limit)
        except apsw.Error as error:
            raise TransportUnavailable(f"{self._file.path}: {error}") from error
        # Positions have no gaps: a record that is not the next one means that retention was here.
        if not found or found[-1].position != after + len(found):
            earliest = found[0].position - 1 if found else stream.head
            raise PositionGone(stream.topic, stream.partition, after, earliest)
        return found

    # -- marks and retention ------------------------------------------------------------------------------------

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        self._retention.mark(subscription, self._stream(topic, partition), position)

    async def unmark(self, subscription: str, topic: str) -> None:
        self._check_open()
        await self._retention.unmark(self._write, subscription, topic)

    async def retain(self) -> int:
        """Delete now what may go; return how many records went. It happens by itself every ten seconds.

        Raises:
            TransportUnavailable: the log is closed, or its disk fails.
        """
        self._check_open()
        streams = list(chain.from_iterable(self._topics.values()))
        return await self._retention.sweep(self._write, self._file.reader, self._file.after_commit, streams)

    # -- opening and closing ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._file.__aenter__()
        try:
            self._topics, self._retention.marks = await self._write(layout.load)
        except BaseException:
            await self._file.__aexit__(None, None, None)
            raise
        self._open = True
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._housekeeper = self._tasks.create_task(self._retention.keep_house(self._write, self.retain))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for stream in chain.from_iterable(self._topics.values()):
            stream.wake()
        self._housekeeper.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
            with suppress(TransportUnavailable):  # a mark that is not written only keeps records for longer
                await self._retention.save(self._write)
        finally:
            await self._file.__aexit__(kind, error, trace)

    def _check_open(self) -> None:
        if not self._open:
            raise TransportUnavailable(f"{self._file.path}: the log is closed")

    def _stream(self, topic: str, partition: int) -> Stream:
        self._check_open()
        streams = self._topics.get(topic)
        if streams is None:
            raise Misconfigured(f"topic {topic} is not provisioned; there are: {', '.join(self._topics) or 'none'}")
        if not 0 <= partition < len(streams):
            raise Misconfigured(f"topic {topic} has partitions 0 to {len(streams) - 1}, not {partition}")
        return streams[partition]

    async def _write(self, work: Callable[[apsw.Connection], R]) -> R:
        try:
            return await self._file.write(work)
        except (StoreUnavailable, apsw.Error) as error:
            raise TransportUnavailable(str(error)) from error


class _LogReader:
    def __init__(self, log: LogTransport, topic: str, partition: int, after: int) -> None:
        self._log = log
        self._topic = topic
        self._partition = partition
        self._after = after

    async def next(self, limit: int) -> Sequence[Record]:
        found = await self._log.next(self._topic, self._partition, self._after, limit)
        self._after = found[-1].position
        return found

    async def aclose(self) -> None: ...
