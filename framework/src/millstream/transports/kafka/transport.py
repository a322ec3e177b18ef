"""The transport port on Apache Kafka: topics, partitions and offsets as they are, and nothing of its consumer groups.

Positions are offset + 1. Several processes may publish and read. Left to the operator: enough copies (`durability` says what is
missing), and a retention by time that no reader falls behind; where one does, reading is `PositionGone`. Where foreign producers
use transactions, `bounds` counts the markers that end them, which no reader returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, final

import msgspec
from confluent_kafka import KafkaError

from ...errors import MillstreamError, RecordRefused, TransportUnavailable
from ...message import Record
from ...ports.transport import Bounds, Durability, Reader, TransportCapabilities
from .connection import REFUSALS, Connection
from .fetcher import Fetcher
from .marks import Marks
from .reader import KafkaReader
from .sender import Sender
from .topics import Layout, Topics

__all__ = ["KafkaOptions", "KafkaTransport"]

CLOSE_SECONDS = 5.0
WATCH_SECONDS = 5.0
"""How often readers' topics are asked for."""
KEEP_SECONDS = 7 * 86_400.0
KEY_BYTES = 1024


class KafkaOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What topics are created with, and how long to wait.

    replication, min_insync: copies of each record, and how many of them confirm it; None is what the brokers do by default.
    keep_seconds: how long the brokers keep a record, read or not. Marks do not hold them, so the default is a week and not
    what other engines keep after reading. flush: write each record through to the disk before it is confirmed
    (`flush.messages=1`): for a broker alone, which has no copies. largest_record_bytes: of a value; the default fits into what brokers
    take by default. wait_seconds: how long a call may take before the log counts as away. fetch_wait_ms: how long a broker holds a fetch
    when there is nothing new. A record ends it at once, but a reader that is opened waits for its end; the smaller, the more
    an idle process costs the brokers.
    """

    replication: int | None = None
    min_insync: int | None = None
    keep_seconds: float = KEEP_SECONDS
    flush: bool = False
    largest_record_bytes: int = 1_000_000
    wait_seconds: float = 10.0
    fetch_wait_ms: int = 100


@final
class KafkaTransport:
    """Open with `async with`. Opening does not wait for the brokers; the first call does, for as long as a call may."""

    def __init__(self, connection: Connection, options: KafkaOptions = KafkaOptions()) -> None:  # noqa: B008 - immutable
        self._connection = connection
        self._options = options
        self._sender: Sender | None = None
        self._ending: list[Sender] = []
        self._fetchers: list[Fetcher] = []
        self._open = False

    @property
    def capabilities(self) -> TransportCapabilities:
        return TransportCapabilities(
            name="kafka",
            survives_restart=True,
            several_processes=True,
            retention_by_position=False,
            largest_record_bytes=self._options.largest_record_bytes,
            batch_is_atomic=False,
        )

    async def durability(self) -> Durability:
        self._check_open()
        return await self._topics.durability()

    # -- topics -------------------------------------------------------------------------------------------------

    async def provision(self, topic: str, partitions: int) -> None:
        self._check_open()
        await self._topics.provision(topic, partitions)

    async def partitions(self, topic: str) -> int | None:
        self._check_open()
        return await self._topics.partitions(topic)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        self._check_open()
        return await self._topics.bounds(topic, partition)

    async def check(self, topic: str, partition: int) -> None:
        """For a reader: raise what the port says about a partition that is not there, or a log that is away."""
        self._check_open()
        await self._topics.check(topic, partition)
        self._check_open()

    # -- publishing ---------------------------------------------------------------------------------------------

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        self._check_open()
        largest = await self._topics.largest(topic, partition)
        refused = next((index for index, record in enumerate(records) if _size(record) > largest), None)
        wanted = records[:refused]
        confirmed = await self._publish(topic, partition, wanted) if wanted else 0
        if refused is not None and confirmed == refused:
            raise RecordRefused(refused, f"{_size(records[refused])} bytes, this topic carries {largest}")
        return confirmed

    async def _publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        until = asyncio.get_running_loop().time() + self._options.wait_seconds
        confirmed, error, alone = 0, None, False
        while confirmed < len(records):
            sender = self._producing()
            part = records[confirmed : confirmed + 1] if alone else records[confirmed:]
            sent, error = await sender.send(topic, partition, part, until)
            confirmed += sent
            if error is None:
                continue
            if error.code() not in REFUSALS:
                break
            if len(part) == 1:
                raise RecordRefused(confirmed, error.str())
            # A broker judges whole batches. One by one it shows which record it meant.
            alone = True
        if confirmed or error is None:
            return confirmed
        self._topics.forget(topic)  # it may be gone: the next call asks before it sends
        raise TransportUnavailable(f"kafka: {topic}/{partition} at {self._connection.hosts}: {_why(error)}")

    def _producing(self) -> Sender:
        """The producer, or a new one after the last was given up."""
        self._check_open()
        if self._sender is None or self._sender.condemned:
            self._ending = [sender for sender in (*self._ending, self._sender) if sender is not None and sender.alive]
            self._sender = Sender(self._connection, self._options.largest_record_bytes)
        return self._sender

    # -- reading ------------------------------------------------------------------------------------------------

    def read(self, topic: str, partition: int, after: int) -> Reader:
        return KafkaReader(self, topic, partition, after)

    def fetcher_for(self, topic: str, partition: int) -> Fetcher:
        """For a reader: a consumer that has no place in this partition yet."""
        for fetcher in self._fetchers:
            if (topic, partition) not in fetcher.places:
                return fetcher
        self._fetchers.append(Fetcher(self._connection, self._options.fetch_wait_ms, self._away))
        return self._fetchers[-1]

    async def _watch(self) -> None:
        """For ever. A client says nothing of a topic that was deleted, and long nothing of brokers that only hold its
        connections; readers would wait on."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            places = {place[0] for fetcher in self._fetchers for place in fetcher.places}
            try:
                gone = await self._topics.missing(places)
            except MillstreamError as error:
                for fetcher in self._fetchers:
                    self._away(fetcher, str(error))
                continue
            for fetcher in self._fetchers:
                for feed in list(fetcher.places.values()):
                    if feed.place[0] in gone:
                        feed.target.fail(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))

    def _away(self, fetcher: Fetcher, why: str) -> None:
        for feed in list(fetcher.places.values()):
            feed.target.fail(f"kafka: {self._connection.hosts}: {why}")

    # -- marks --------------------------------------------------------------------------------------------------

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        self._check_open()
        self._marks.set(subscription, topic, partition, position)

    async def unmark(self, subscription: str, topic: str) -> None:
        self._check_open()
        await self._marks.forget(subscription, topic)

    # -- opening and closing ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        options = self._options
        layout = Layout(
            options.replication, options.min_insync, options.keep_seconds, options.largest_record_bytes, options.flush
        )
        self._topics = Topics(self._connection, layout, options.wait_seconds)
        self._marks = Marks(self._topics, self._connection, options.wait_seconds)
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._background = [
            self._tasks.create_task(self._marks.keep_committing()),
            self._tasks.create_task(self._watch()),
        ]
        self._open = True
        self._producing()  # it is numbered by the brokers before it may send: half a second that need not be waited for
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for task in self._background:
            task.cancel()
        for fetcher in self._fetchers:
            self._away(fetcher, "the log is closed")
        senders = self._ending + ([self._sender] if self._sender is not None else [])
        self._sender, self._ending, fetchers, self._fetchers = None, [], self._fetchers, []
        try:
            await self._tasks.__aexit__(None, None, None)
            with suppress(MillstreamError, TimeoutError):  # a mark is a hint
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._marks.commit()
        finally:
            async with asyncio.TaskGroup() as ending:
                for one in (*senders, *fetchers):
                    ending.create_task(one.aclose(CLOSE_SECONDS))
            self._topics.close()
            del self._topics, self._marks

    def _check_open(self) -> None:
        if not self._open:
            raise TransportUnavailable(f"kafka: {self._connection.hosts}: the log is closed")


def _size(record: Record) -> int:
    """Of a value, and what a key has beyond its kibibyte."""
    key = 0 if record.key is None else len(record.key.encode("utf-8", "surrogatepass"))
    return len(record.value) + max(0, key - KEY_BYTES)


def _why(error: KafkaError) -> str:
    return error.str()
