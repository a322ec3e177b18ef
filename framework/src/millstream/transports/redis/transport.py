"""The transport port on Redis Streams: one stream per partition, positions without gaps, retention by position.

A publish is one script, so all of its records become durable or none; with `appendfsync always` the server answers after
the sync, and readers see nothing that is not on the disk. Left to the operator: a primary that is configured so
(`durability` says what is missing). Redis copies to replicas after it has confirmed, so a failover may lose the last
records: readers that are ahead of the new primary then get `PositionGone`.

A clustered Redis is refused. Redis keeps everything in memory: what `keep` holds must fit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, final

import msgspec
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from ...clock import Clock, SystemClock, seconds
from ...errors import Misconfigured, PositionGone, RecordRefused, TransportUnavailable
from ...message import Record
from ...ports.instrumentation import Instrumentation, Silent
from ...ports.transport import Bounds, Durability, Reader, TransportCapabilities
from . import entries
from .connections import Address, Connections
from .durability import check_server, durability
from .entries import EPOCH, Keys
from .retention import Retention
from .scripts import APPEND, BOUNDS, CREATE, FETCH
from .tail import Tail

__all__ = ["RedisOptions", "RedisTransport"]

LARGEST_RECORD_BYTES = 4 * 1024 * 1024
READ_BYTES = 4 * 1024 * 1024
"""A read ends with the record that passes this size: a batch of large records must not fill memory."""


PUBLISH_BYTES = 256 * 1024 * 1024
"""A publish above this size becomes several scripts: Redis takes no argument above 512 MiB. Up to it, it is atomic."""


class RedisOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL may say behind its question mark.

    prefix: how the names of all keys begin. keep: records stay at least this long after they were written. connections: calls
    that are under way at once; one more connection waits for records. timeout: after which the server counts as away.
    appendfsync: how the server is configured, where it refuses to tell. tls_ca: a file of certificates, when not the
    system's.
    """

    prefix: str = "millstream:"
    keep: str | float = "3d"
    largest_record_bytes: int = LARGEST_RECORD_BYTES
    connections: int = 8
    timeout: str | float = "10s"
    appendfsync: Literal["", "always", "everysec", "no"] = ""
    tls: bool = False
    tls_ca: str | None = None


@final
class RedisTransport:
    """The log in one Redis. Open with `async with`; when it closes, every reader that waits gets an error."""

    def __init__(
        self,
        address: Address,
        *,
        clock: Clock | None = None,
        instrumentation: Instrumentation | None = None,
        options: RedisOptions = RedisOptions(),  # noqa: B008 - immutable
    ) -> None:
        clock = clock or SystemClock()
        self._address = address
        self._options = options
        self._keys = Keys(options.prefix)
        self._connections = Connections(address, limit=options.connections, timeout=seconds(options.timeout))
        self._tail = Tail(self._connections)
        keep_ms = round(seconds(options.keep) * 1e3)
        self._retention = Retention(self._connections, self._keys, clock, instrumentation or Silent(), keep_ms)
        self._topics: dict[str, int] = {}
        """The topics that were used here, with their partitions. A count never changes, so it is read once."""
        self._open = False

    @property
    def capabilities(self) -> TransportCapabilities:
        return TransportCapabilities(
            name="redis",
            survives_restart=True,
            several_processes=True,
            retention_by_position=True,
            largest_record_bytes=self._options.largest_record_bytes,
            batch_is_atomic=True,
        )

    async def durability(self) -> Durability:
        self._check_open()
        return await durability(self._connections, self._options.appendfsync)

    # -- topics -------------------------------------------------------------------------------------------------

    async def provision(self, topic: str, partitions: int) -> None:
        self._check_open()
        if partitions < 1:
            raise Misconfigured(f"topic {topic}: {partitions} partitions; a topic has at least one")
        keys = [self._keys.topics]
        keys += (self._keys.stream(topic, number) for number in range(partitions))
        keys += (self._keys.marks(topic, number) for number in range(partitions))
        existing: int | bytes = await self._connections.run(CREATE, keys, topic, partitions)
        if isinstance(existing, bytes):
            raise Misconfigured(
                f"topic {topic}: the key {existing.decode()} of {self._address} is no stream of this log: move it away"
                " (RENAME), or choose another prefix in the URL (?prefix=…)"
            )
        if existing != partitions:
            raise Misconfigured(
                f"topic {topic} has {existing} partitions, not {partitions}; changing the count is drain and switch"
            )
        self._topics[topic] = partitions

    async def partitions(self, topic: str) -> int | None:
        self._check_open()
        known = self._topics.get(topic)
        if known is not None:
            return known
        found: bytes | None = await self._connections.do("HGET", self._keys.topics, topic)
        if found is None:
            return None
        self._topics[topic] = int(found)
        return int(found)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        stream = await self._stream(topic, partition)
        found: list[bytes] = await self._connections.run(BOUNDS, [stream])
        if not found:
            await self._lost(topic, partition)
        last = entries.position_of(found[1])
        first = entries.position_of(found[0]) if found[0] else None
        if last is None or (found[0] and first is None):
            raise self._foreign(stream, found[1].decode())
        return Bounds(earliest=last if first is None else first - 1, latest=last)

    # -- records ------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        stream = await self._stream(topic, partition)
        largest = self._options.largest_record_bytes
        refused = next((index for index, record in enumerate(records) if len(record.value) > largest), None)
        durable = records[:refused]
        for part in _parts(durable):
            await self._append(topic, partition, stream, part)
        if refused is not None:
            raise RecordRefused(refused, f"{len(records[refused].value)} bytes, this log carries {largest}")
        return len(records)

    async def _append(self, topic: str, partition: int, stream: str, records: Sequence[Record]) -> None:
        try:
            appended = await self._connections.run(APPEND, [stream], *entries.pack(records))
        except TransportUnavailable as error:
            if isinstance(error.__cause__, ResponseError) and "equal or smaller" in str(error):
                raise self._foreign(stream, "a larger one") from error
            raise
        if not appended:
            await self._lost(topic, partition)

    def read(self, topic: str, partition: int, after: int) -> Reader:
        return _RedisReader(self, topic, partition, after)

    async def wait(self, topic: str, partition: int, after: int) -> None:
        """Return when there may be something behind `after`."""
        await self._tail.wait(await self._stream(topic, partition, after), after)

    async def fetch(self, topic: str, partition: int, after: int, limit: int) -> tuple[list[Record], bool]:
        """What lies behind `after` now, and whether that is all of it."""
        stream = await self._stream(topic, partition, after)
        answer: Any = await self._connections.run(FETCH, [stream], after, limit, READ_BYTES)
        sizes, data, odd, last = answer
        found = entries.unpack(sizes, data, after)
        if found:
            return found, len(found) < limit and len(data) < READ_BYTES
        if not odd and not last:
            await self._lost(topic, partition, after)
        reached = entries.position_of(odd or last)
        if reached is None:
            raise self._foreign(stream, (odd or last).decode())
        if odd or after != reached:
            # Trimmed or deleted by hand; or beyond the end of a log that was lost or put back.
            earliest = reached - 1 if odd else (await self.bounds(topic, partition)).earliest
            raise PositionGone(topic, partition, after, earliest)
        return [], True

    # -- marks and retention ------------------------------------------------------------------------------------

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        await self._stream(topic, partition)
        await self._retention.mark(subscription, topic, partition, position)

    async def unmark(self, subscription: str, topic: str) -> None:
        await self._retention.unmark(subscription, topic, await self.partitions(topic) or 0)

    async def retain(self) -> int:
        """Delete now what may go, in the topics that were used here; return how many records went. It happens by itself
        every ten seconds.

        Raises:
            TransportUnavailable: the log is closed, or the server is away.
        """
        self._check_open()
        await self._retention.save()
        return await self._retention.sweep(dict(self._topics))

    # -- opening and closing ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await check_server(self._connections)
        except TransportUnavailable as error:
            await self._connections.close()
            if isinstance(error.__cause__, (AuthenticationError, NoPermissionError)):
                raise Misconfigured(str(error)) from error
            raise
        except BaseException:
            await self._connections.close()
            raise
        self._open = True
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._running = [
            self._tasks.create_task(self._tail.run()),
            self._tasks.create_task(self._retention.keep_house(self._topics)),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for task in self._running:
            task.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
            with suppress(TransportUnavailable):  # a mark that is not written only keeps records for longer
                await self._retention.save()
        finally:
            self._tail.fail(TransportUnavailable(f"{self._address}: this log is closed"))
            await self._connections.close()

    def _check_open(self) -> None:
        if not self._open:
            raise TransportUnavailable(f"{self._address}: this log is closed")

    async def _stream(self, topic: str, partition: int, after: int = 0) -> str:
        """The key of a partition that exists.

        Raises:
            Misconfigured: the topic or the partition does not exist.
            PositionGone: the topic does not, although somebody has read in it up to `after`.
        """
        partitions = await self.partitions(topic)
        if partitions is None:
            if after > 0:
                raise PositionGone(topic, partition, after, 0)
            known: list[bytes] = await self._connections.do("HKEYS", self._keys.topics)
            names = ", ".join(sorted(name.decode() for name in known)[:20]) or "none"
            raise Misconfigured(f"topic {topic} is not provisioned; there are: {names}")
        if not 0 <= partition < partitions:
            raise Misconfigured(f"topic {topic} has partitions 0 to {partitions - 1}, not {partition}")
        return self._keys.stream(topic, partition)

    async def _lost(self, topic: str, partition: int, after: int = 0) -> NoReturn:
        """The stream is not there: the topic never was, or the server was emptied."""
        self._topics.pop(topic, None)
        stream = await self._stream(topic, partition, after)
        if after > 0:
            raise PositionGone(topic, partition, after, 0)
        raise TransportUnavailable(
            f"{self._address}: the stream {stream} is gone: restore a backup, or accept the loss with "
            "`millstream provision`, which makes an empty one"
        )

    def _foreign(self, stream: str, id_: str) -> TransportUnavailable:
        # Not Misconfigured: the other partitions go on, and this one does by itself once it is repaired.
        return TransportUnavailable(
            f"{self._address}: another client added an entry with an id of its own ({id_}) to {stream}, where ids are "
            f"{EPOCH}-<position> and come from `*`. Take it out with XDEL, then XSETID {stream} to the last id that is left"
        )


def _parts(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """All of the records, cut where they pass `PUBLISH_BYTES`; nearly always in one piece."""
    start, size = 0, 0
    for index, record in enumerate(records):
        size += len(record.value)
        if size > PUBLISH_BYTES:
            yield records[start : index + 1]
            start, size = index + 1, 0
    if start < len(records):
        yield records[start:]


class _RedisReader:
    def __init__(self, log: RedisTransport, topic: str, partition: int, after: int) -> None:
        self._log = log
        self._topic = topic
        self._partition = partition
        self._after = after
        self._at_end = False

    async def next(self, limit: int) -> Sequence[Record]:
        while True:
            if self._at_end:
                await self._log.wait(self._topic, self._partition, self._after)
            found, self._at_end = await self._log.fetch(self._topic, self._partition, self._after, limit)
            if found:
                self._after = found[-1].position
                return found

    async def aclose(self) -> None: ...
