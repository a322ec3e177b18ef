"""The transport port on RabbitMQ stream queues: a queue `<topic>.<n>` per partition, the stream's offset + 1 as position.

Queues are addressed by the default exchange, so no binding can send a record elsewhere. There are up to three connections:
a broker that is short of memory stops reading from whoever publishes, readers must not wait for that; and some questions
about queues are answered by closing the connection.

Left to the caller: a user that may configure, write and read the topics' queues; and where records must survive the loss
of a machine, a cluster (`durability` says what it needs to be told).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial as bind
from types import TracebackType
from typing import Self, final

import msgspec

from ...clock import Clock, SystemClock, seconds
from ...errors import Misconfigured
from ...message import Record
from ...ports.transport import Bounds, Durability, Reader, TransportCapabilities
from .connection import Login
from .link import Address, Link
from .publishing import Publisher
from .reader import StreamReader
from .topics import Retention, Topics, queue_name

__all__ = ["RabbitmqOptions", "RabbitmqTransport"]


class RabbitmqOptions(msgspec.Struct, frozen=True):
    """Options of the URL."""

    keep: str | float = "3d"
    """How old a record of a new topic becomes at least; RabbitMQ deletes whole segments, and only when one is full. Whoever
    has not read a record by then gets PositionGone: it must exceed every outage. 0 keeps everything."""
    segment_bytes: int = 64 * 1024 * 1024
    replicas: int = 0
    """On how many nodes a new topic's records lie; 0 is what the broker does by itself: all nodes."""
    timeout: str | float = "10s"
    """How long a call waits for the broker, and a publish for the next confirmation."""
    heartbeat: str | float = "10s"
    prefetch: int = 500
    """Records that a reader holds beforehand. The bound on its memory is this many times the largest record."""
    largest_record_bytes: int = 1024 * 1024
    """Below the broker's max_message_size (128 MiB up to version 3.13, 16 MiB since 4.0), which a client cannot ask for."""


@final
class RabbitmqTransport:
    """addresses: brokers of one cluster; the first that answers is used."""

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        login: Login,
        clock: Clock | None = None,
        options: RabbitmqOptions | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._options = options = options or RabbitmqOptions()
        self._links = self._publishing, self._reading, self._looking = tuple(
            Link(
                addresses,
                login,
                purpose=purpose,
                timeout=seconds(options.timeout),
                heartbeat=seconds(options.heartbeat),
                clock=self._clock,
            )
            for purpose in ("publishing", "reading", "looking at queues")
        )
        retention = Retention(options.keep, options.segment_bytes, options.replicas)
        self._topics = Topics(self._looking, retention, self._clock)
        self._counts: dict[str, int] = {}
        self._publishers: dict[tuple[str, int], Publisher] = {}

    @property
    def capabilities(self) -> TransportCapabilities:
        return TransportCapabilities(
            name="rabbitmq",
            survives_restart=True,
            several_processes=True,
            retention_by_position=False,
            largest_record_bytes=self._options.largest_record_bytes,
            batch_is_atomic=False,
        )

    async def durability(self) -> Durability:
        """RabbitMQ confirms a stream's record when most replicas have it, before any of them has called fsync. How many
        there are cannot be asked over AMQP 0.9.1, so `replicas` in the URL is the operator's word for it."""
        await self._looking.connection()
        if self._options.replicas >= 3:
            return Durability(process_crash=True, power_loss=True)
        return Durability(
            process_crash=True,
            power_loss=False,
            why_not=(
                "replicas: RabbitMQ confirms records of a stream before fsync, so only copies on other machines survive a "
                "power cut. Run a cluster of three nodes that do not fail together, and say replicas=3 in the URL"
            ),
        )

    async def provision(self, topic: str, partitions: int) -> None:
        if partitions < 1:
            raise Misconfigured(f"topic {topic}: {partitions} partitions; a topic has at least one")
        found = await self._topics.provision(topic, partitions)
        if found != partitions:
            raise Misconfigured(
                f"topic {topic} has {found} partitions, not {partitions}; changing the count is drain and switch"
            )
        self._counts[topic] = found

    async def partitions(self, topic: str) -> int | None:
        count = await self._topics.count(topic)
        if count is None:
            self._counts.pop(topic, None)
        else:
            self._counts[topic] = count
        return count

    async def bounds(self, topic: str, partition: int) -> Bounds:
        await self._check(topic, partition)
        return await self._topics.bounds(topic, partition)

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        await self._check(topic, partition)
        publisher = self._publishers.get((topic, partition))
        if publisher is None:
            queue = queue_name(topic, partition)
            publisher = Publisher(self._publishing, queue, self._options.largest_record_bytes, self._topics.unroutable)
            self._publishers[topic, partition] = publisher
        try:
            return await publisher.publish(records)
        except Misconfigured:
            self._counts.pop(topic, None)  # the topic may be gone, or come back with another count
            raise

    def read(self, topic: str, partition: int, after: int) -> Reader:
        return StreamReader(
            self._reading,
            (topic, partition),
            after,
            prefetch=self._options.prefetch,
            check=bind(self._check, topic, partition),
            bounds=bind(self._topics.bounds, topic, partition),
        )

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        """Nothing: a stream has no place for it over AMQP 0.9.1, and retention goes by age."""

    async def unmark(self, subscription: str, topic: str) -> None:
        """Nothing, as `mark`."""

    async def __aenter__(self) -> Self:
        for link in self._links:
            link.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._publishers.clear()
        async with asyncio.TaskGroup() as group:  # each may have to wait for a broker that does not say goodbye
            for link in self._links:
                group.create_task(link.close())

    async def _check(self, topic: str, partition: int) -> None:
        self._reading.check_open()
        count = self._counts.get(topic)
        if count is None:
            count = await self.partitions(topic)
            if count is None:
                raise Misconfigured(f"topic {topic} is not provisioned: run `millstream provision`")
        if not 0 <= partition < count:
            raise Misconfigured(f"topic {topic} has partitions 0 to {count - 1}, not {partition}")
