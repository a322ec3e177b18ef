"""The transport port on PostgreSQL tables: positions without gaps, retention by position, several processes.

A publish is one transaction in one round trip, under a lock of its partition until the commit, so that the order of
positions is the order of commits. Reading is a SELECT over one connection that all readers share, and waiting is a flag
that publishers of this process set directly and those of others by NOTIFY; who waits looks once a second anyway, so
a notification that is lost costs a second and no record.

Left to the operator: `fsync` and `synchronous_commit` as they are by default (`durability` reads them back).
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self, final

import msgspec

from ...clock import Clock, SystemClock, seconds
from ...errors import (
    MillstreamError,
    Misconfigured,
    PositionGone,
    RecordRefused,
    StoreUnavailable,
    TransportUnavailable,
)
from ...message import Record
from ...ports.instrumentation import Instrumentation, Silent
from ...ports.store import Row, Signal
from ...ports.transport import Bounds, Durability, Reader, TransportCapabilities
from ...postgresql.connection import Bound
from ...postgresql.database import Database, prepare, run_script
from ...postgresql.listener import Listener
from ...postgresql.pool import Pool, SharedConnection, run
from . import layout
from .retention import Retention

__all__ = ["PostgresqlLog", "PostgresqlLogOptions"]

LARGEST_RECORD_BYTES = 16 * 1024 * 1024
SWEEP_SECONDS = 1.0
"""How often who waits looks without having been woken."""
LISTENER_NAME = "millstream log listener"


class PostgresqlLogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """keep: records stay at least this long after they were written, by the server's clock."""

    keep: str | float = "3d"
    largest_record_bytes: int = LARGEST_RECORD_BYTES


@final
class PostgresqlLog:
    """The log in one database. Open with `async with`; when it closes, every reader that waits gets an error."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock | None = None,
        instrumentation: Instrumentation | None = None,
        options: PostgresqlLogOptions = PostgresqlLogOptions(),  # noqa: B008 - immutable
    ) -> None:
        clock, instrumentation = clock or SystemClock(), instrumentation or Silent()
        self._database = database
        self._options = options
        self._pool = Pool(database.writer, database.connections, database.shown)
        self._reader = SharedConnection(database.reader, database.shown)
        self._scanner = SharedConnection(database.scanner, database.shown)
        self._listener = Listener(
            lambda: database.listener(LISTENER_NAME),
            clock=clock,
            instrumentation=instrumentation,
            wire=f"millstream_log.{database.schema}" if database.schema else "millstream_log",
        )
        self._retention = Retention(self._pool, self._scanner, clock, instrumentation, seconds(options.keep))
        self._topics: dict[str, int] = {}
        """The topics that were used here, with their partitions. A count never changes, so it is read once."""
        self._signals: set[Signal] = set()
        self._open = False

    @property
    def capabilities(self) -> TransportCapabilities:
        return TransportCapabilities(
            name="postgresql",
            survives_restart=True,
            several_processes=True,
            retention_by_position=True,
            largest_record_bytes=self._options.largest_record_bytes,
            batch_is_atomic=True,
        )

    async def durability(self) -> Durability:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        sql = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
        ((fsync, commit, pages),) = await self._fetch((sql.encode(), ([], None)))
        weak: list[str] = []
        if commit == "off":
            weak.append("synchronous_commit is off: set it to on")
        if fsync != "on":
            weak.append(f"fsync is {fsync}: set it to on")
        if pages != "on":
            weak.append(f"full_page_writes is {pages}: set it to on")
        # A commit that is not waited for is in the server's memory only: its own crash loses it too.
        return Durability(process_crash=commit != "off", power_loss=not weak, why_not="; ".join(weak))

    # -- topics -------------------------------------------------------------------------------------------------

    async def provision(self, topic: str, partitions: int) -> None:
        self._check_open()
        if partitions < 1:
            raise Misconfigured(f"topic {topic}: {partitions} partitions; a topic has at least one")
        if await self.partitions(topic) is None:
            with self._away():
                await self._pool.run(layout.provision(topic, partitions))
        existing = await self.partitions(topic)
        if existing != partitions:
            raise Misconfigured(
                f"topic {topic} has {existing} partitions, not {partitions}; changing the count is drain and switch"
            )

    async def partitions(self, topic: str) -> int | None:
        self._check_open()
        known = self._topics.get(topic)
        if known is not None:
            return known
        found = await self._fetch(layout.topics(topic))
        if not found:
            return None
        self._topics[topic] = found[0][1]
        return self._topics[topic]

    async def bounds(self, topic: str, partition: int) -> Bounds:
        await self.check_place(topic, partition)
        found = await self._fetch(layout.bounds(topic, partition))
        if not found:
            raise self._lost(topic, partition)
        return Bounds(*found[0])

    # -- records ------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        await self.check_place(topic, partition)
        refused, reason = self._first_refused(records)
        durable = records[:refused]
        if durable:
            channel = _channel(topic, partition)
            with self._away():
                # With the commit and not behind it: a caller that gave up must not take the wake-up with it.
                (result,) = await self._pool.run(
                    [layout.append(topic, partition, durable)], lambda: self._listener.committed({channel})
                )
            if result.get_value(0, 0) is None:
                raise self._lost(topic, partition)
        if refused is not None:
            raise RecordRefused(refused, reason)
        return len(records)

    def _first_refused(self, records: Sequence[Record]) -> tuple[int | None, str]:
        largest = self._options.largest_record_bytes
        for index, record in enumerate(records):
            if len(record.value) > largest:
                return index, f"{len(record.value)} bytes, this log carries {largest}"
            key = record.key
            if key is not None and not key.isascii():
                try:
                    key.encode()
                except UnicodeEncodeError:
                    return index, "its key holds half of a surrogate pair, which PostgreSQL does not store"
            if key is not None and "\0" in key:
                return index, "its key holds a NUL character, which PostgreSQL does not store"
        return None, ""

    def read(self, topic: str, partition: int, after: int) -> Reader:
        signal = self._listener.listen(_channel(topic, partition))
        self._signals.add(signal)
        return _PostgresqlReader(self, topic, partition, after, signal)

    async def fetch(self, topic: str, partition: int, after: int, limit: int) -> list[Record]:
        """What lies behind `after` now."""
        await self.check_place(topic, partition, after)
        rows = await self._fetch(layout.fetch(topic, partition, after, limit))
        if not rows:
            bounds = await self._fetch(layout.bounds(topic, partition))
            if not bounds:
                raise self._lost(topic, partition, after)
            earliest, latest = bounds[0]
            if not earliest <= after <= latest:
                raise PositionGone(topic, partition, after, earliest)
            return []
        # Positions have no gaps: a record that is not the next one means that retention was here.
        if rows[0][0] != after + 1 or rows[-1][0] != after + len(rows):
            at = next(index for index, row in enumerate(rows) if row[0] != after + 1 + index)
            if at == 0:
                raise PositionGone(topic, partition, after, rows[0][0] - 1)
            rows = rows[:at]
        return [
            Record(value, layout.key_within(value) if key is None else key, position) for position, key, value in rows
        ]

    def closed_reader(self, signal: Signal) -> None:
        """A reader needs no wake-ups any more."""
        self._signals.discard(signal)
        signal.close()

    # -- marks and retention ------------------------------------------------------------------------------------

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        await self.check_place(topic, partition)
        with self._away():
            await self._retention.mark(subscription, topic, partition, position)

    async def unmark(self, subscription: str, topic: str) -> None:
        self._check_open()
        with self._away():
            await self._retention.unmark(subscription, topic)

    async def retain(self) -> int:
        """Delete now what may go; return how many records went. It happens by itself every ten seconds.

        Raises:
            TransportUnavailable: the log is closed, or the server is away.
        """
        self._check_open()
        with self._away():
            await self._retention.save()
            return await self._retention.sweep()

    # -- opening and closing ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        with self._away():
            await prepare(self._database)
            await self._prepare_tables()
            await self._pool.__aenter__()
            try:
                await self._listener.__aenter__()
            except BaseException:
                await self._pool.__aexit__(None, None, None)
                raise
        self._open = True
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._housekeeper = self._tasks.create_task(self._retention.keep_house())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for signal in self._signals:
            signal.set()
        self._housekeeper.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
            with suppress(MillstreamError):  # a mark that is not written only keeps records for longer
                await self._retention.save()
        finally:
            await self._pool.__aexit__(kind, error, trace)
            await self._listener.__aexit__(kind, error, trace)
            self._reader.close()
            self._scanner.close()

    async def _prepare_tables(self) -> None:
        connection = await self._database.changer()
        try:
            (found,) = await run(connection, (layout.select_format(exists=False),))
            if not connection.rows(found)[0][0]:
                await run_script(connection, layout.TABLES)
            (found,) = await run(connection, (layout.select_format(exists=True),))
            ((version,),) = connection.rows(found)
        except StoreUnavailable:
            raise
        except MillstreamError as error:
            raise Misconfigured(
                f"{self._database.shown}: the tables of the log cannot be made or read: {error}"
            ) from error
        finally:
            connection.close()
        if version != layout.FORMAT:
            raise Misconfigured(
                f"{self._database.shown}: the log has format {version}, this version of Millstream reads {layout.FORMAT}"
            )

    # -- inside -------------------------------------------------------------------------------------------------

    async def check_place(self, topic: str, partition: int, after: int = 0) -> None:
        """Raise unless the topic has this partition.

        Raises:
            Misconfigured: the topic or the partition does not exist.
            PositionGone: the topic does not, although somebody has read in it up to `after`.
        """
        partitions = await self.partitions(topic)
        if partitions is None:
            if after > 0:
                raise PositionGone(topic, partition, after, 0)
            names = ", ".join(row[0] for row in (await self._fetch(layout.topics()))[:20]) or "none"
            raise Misconfigured(f"topic {topic} is not provisioned; there are: {names}")
        if not 0 <= partition < partitions:
            raise Misconfigured(f"topic {topic} has partitions 0 to {partitions - 1}, not {partition}")

    def _lost(self, topic: str, partition: int, after: int = 0) -> MillstreamError:
        """The topic was here and is not any more: an older backup was put back, or somebody removed it."""
        self._topics.pop(topic, None)
        if after > 0:
            return PositionGone(topic, partition, after, 0)
        return TransportUnavailable(
            f"{self._database.shown}: topic {topic} is gone; `millstream provision` makes it anew"
        )

    async def _fetch(self, statement: Bound) -> list[Row]:
        self._check_open()
        with self._away():
            return await self._reader.fetch(statement)

    @contextmanager
    def _away(self) -> Generator[None]:
        """Whatever the server says no to is no fault of a record: the same call may succeed later."""
        try:
            yield
        except (Misconfigured, TransportUnavailable):
            raise
        except MillstreamError as error:
            raise TransportUnavailable(str(error)) from error

    def _check_open(self) -> None:
        if not self._open:
            raise TransportUnavailable(f"{self._database.shown}: the log is closed")


class _PostgresqlReader:
    def __init__(self, log: PostgresqlLog, topic: str, partition: int, after: int, signal: Signal) -> None:
        self._log = log
        self._topic = topic
        self._partition = partition
        self._after = after
        self._signal = signal

    async def next(self, limit: int) -> Sequence[Record]:
        while True:
            found = await self._log.fetch(self._topic, self._partition, self._after, limit)
            if found:
                self._after = found[-1].position
                return found
            await self._signal.wait(SWEEP_SECONDS)

    async def aclose(self) -> None:
        self._log.closed_reader(self._signal)


def _channel(topic: str, partition: int) -> str:
    return f"{topic}/{partition}"
