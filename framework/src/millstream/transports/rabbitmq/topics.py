"""Topics: which queues they consist of, how many, and where each begins and ends.

Topic `orders` with two partitions is three stream queues:

- `orders.0` and `orders.1`, one for each partition. The first record of each is an **opening record** (header
  `millstream-partition`: the count). It is why a partition's queue is never empty: over AMQP an empty stream and one that
  is slow to answer look the same, and with it every question has an answer to wait for. Retention removes whole segments,
  never the newest one, so it stays true.
- `orders.partitions`, whose first record tells the count. It is written last, so a topic whose provisioning was cut short
  does not exist until another provisioning completes it; and it is a log, so of two that want different counts at once
  the first wins and the other one learns it.

One more stream, `millstream.streams`, stands for all topics: it is the broker's first one. RabbitMQ 3.10 notes with a delay
of half a second that it has streams at all (ra_directory: names.dets, auto_save), and killed before that it comes back
without any of them. So whoever declares the first stream waits until that is over, before any record is confirmed.
"""

from __future__ import annotations

import asyncio
from typing import final

import msgspec
from pamqp import commands

from ...binary_mode import STRUCTURED
from ...clock import Clock, Duration, seconds
from ...errors import MillstreamError, Misconfigured, TransportUnavailable
from ...ports.transport import Bounds
from .connection import Channel, Closed, RefusedByServer
from .frames import content, publish, table
from .link import PRECONDITION_FAILED, Link, no_queue
from .reader import consume
from .wire import OPENING, offset_of, opening_of

__all__ = ["Retention", "Topics", "queue_name"]

_WHOLE_TAIL = 60_000
"""Prefetch that takes in whatever a stream's last chunk holds."""
_UNFINISHED_SECONDS = 2.0
"""A queue `<topic>.partitions` that shows nothing for so long was made by a provisioning that did not get further."""
_AT_ONCE = 8
_AGAIN_SECONDS = 0.1
_FIRST_STREAM = "millstream.streams"
_NOTED_SECONDS = 1.5


class Retention(msgspec.Struct, frozen=True):
    """What a partition's queue is declared with. keep: a record's age; 0 keeps everything. segment_bytes: what is deleted
    at once. replicas: how many nodes of the cluster hold it; 0 leaves it to the broker (all of them)."""

    keep: Duration
    segment_bytes: int
    replicas: int

    def arguments(self) -> dict[str, str | int]:
        """The queue's arguments."""
        found: dict[str, str | int] = {
            "x-queue-type": "stream",
            "x-stream-max-segment-size-bytes": self.segment_bytes,
        }
        if seconds(self.keep) > 0:
            found["x-max-age"] = f"{max(1, round(seconds(self.keep)))}s"
        if self.replicas:
            found["x-initial-cluster-size"] = self.replicas
        return found


def queue_name(topic: str, partition: int) -> str:
    """The queue of a partition."""
    return f"{topic}.{partition}"


@final
class Topics:
    """Asks the broker each time: nothing is remembered here."""

    def __init__(self, link: Link, retention: Retention, clock: Clock) -> None:
        self._link = link
        self._retention = retention
        self._clock = clock

    async def count(self, topic: str) -> int | None:
        """How many partitions a topic has; None while it does not exist.

        Raises:
            TransportUnavailable: there is no broker; or it does not show the count, because it is still starting or the
                provisioning was cut short.
        """
        watch = _Watch()
        channel = await self._link.channel(watch)
        try:
            async with self._link.bounded(f"look up topic {topic}"):
                try:
                    await consume(channel, f"{topic}.partitions", "first", 1)
                except Misconfigured:
                    return None
                async with asyncio.timeout(min(_UNFINISHED_SECONDS, self._link.timeout / 2)):
                    header = await watch.first()
        except TimeoutError:
            raise _Unfinished(f"RabbitMQ does not show yet how many partitions topic {topic} has") from None
        finally:
            channel.abandon()
        count = opening_of(header)
        if count is None:
            raise Misconfigured(f"queue {topic}.partitions is none of ours: its first record tells no partition count")
        return count

    async def provision(self, topic: str, partitions: int) -> int:
        """How many partitions a topic has after it was created, if it did not exist: another count than asked for, if
        somebody else was first."""
        try:
            count = await self.count(topic)
        except _Unfinished:
            count = None
        return await self._create_patiently(topic, partitions) if count is None else count

    async def _create_patiently(self, topic: str, partitions: int) -> int:
        until = self._clock.monotonic() + self._link.timeout
        while True:
            try:
                return await self._create(topic, partitions)
            except TransportUnavailable as error:
                # Two at once: the queue that the other one declares is known before its stream is, and until then
                # RabbitMQ closes the connection, with 506 RESOURCE_ERROR or 541 INTERNAL_ERROR.
                if not isinstance(error.__cause__, RefusedByServer) or self._clock.monotonic() > until:
                    raise
                await self._clock.sleep(_AGAIN_SECONDS)

    async def _create(self, topic: str, partitions: int) -> int:
        doing = f"provision topic {topic}"
        if not await self._exists(_FIRST_STREAM):
            await self._make(_FIRST_STREAM, {"x-queue-type": "stream"}, topic, partitions, doing)
            await self._clock.sleep(_NOTED_SECONDS)
        limit = asyncio.Semaphore(_AT_ONCE)  # declaring a stream takes the cluster's coordinator some milliseconds

        failed: list[ExceptionGroup[MillstreamError]] = []

        async def partition(number: int) -> None:
            async with limit:
                await self._make(queue_name(topic, number), self._retention.arguments(), topic, partitions, doing)

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(partitions):
                    group.create_task(partition(number))
        except* MillstreamError as errors:
            failed.append(errors)
        if failed:
            raise _first(failed[0])
        replicas = {"x-initial-cluster-size": self._retention.replicas} if self._retention.replicas else {}
        await self._make(f"{topic}.partitions", {"x-queue-type": "stream", **replicas}, topic, partitions, doing)
        count = await self.count(topic)
        if count is None:
            raise TransportUnavailable(f"RabbitMQ: topic {topic} was just provisioned and does not show yet")
        return count

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Where a partition's queue begins and ends."""
        queue = queue_name(topic, partition)
        first, last = _Watch(), _Watch()
        from_first = await self._link.channel(first)
        try:
            from_last = await self._link.channel(last)
            try:
                async with self._link.bounded(f"look at the ends of {queue}"):
                    await consume(from_first, queue, "first", 1)
                    await consume(from_last, queue, "last", _WHOLE_TAIL)
                    header = await first.first()
                    await last.first()
                    # Everything that was there when the first one came is sent before the answer to a later call.
                    await from_last.call(commands.Basic.Qos(prefetch_count=1))
            finally:
                from_last.abandon()
        finally:
            from_first.abandon()
        opening = opening_of(header) is not None
        return Bounds(earliest=offset_of(header) + (1 if opening else 0), latest=offset_of(last.headers[-1]) + 1)

    async def unroutable(self, queue: str) -> None:
        """Find out why a record found no queue: its node may be starting, and then knows its queues before it routes.

        Raises:
            Misconfigured: there is none.
            TransportUnavailable: there is one; it is not ready.
        """
        if await self._exists(queue):
            raise TransportUnavailable(f"RabbitMQ: queue {queue} is there, and not ready")
        raise Misconfigured(f"there is no queue {queue}: provision its topic again")

    async def _exists(self, queue: str) -> bool:
        channel = await self._link.channel(_Watch())
        try:
            async with self._link.bounded(f"look for queue {queue}"):
                await channel.call(commands.Queue.Declare(queue=queue, passive=True))
        except TransportUnavailable as error:
            if isinstance(error.__cause__, Closed) and no_queue(error.__cause__):
                return False
            raise
        finally:
            channel.abandon()
        return True

    async def _make(self, queue: str, arguments: dict[str, str | int], topic: str, partitions: int, doing: str) -> None:
        """Declare a queue and write an opening record to it. One more of them does no harm: readers pass over it."""
        watch = _Watch()
        channel = await self._link.channel(watch)
        try:
            async with self._link.bounded(doing):
                try:
                    await channel.call(commands.Queue.Declare(queue=queue, durable=True, arguments=dict(arguments)))
                except RefusedByServer as error:
                    if error.code != PRECONDITION_FAILED:
                        raise
                    if "x-queue-type" in error.text or "durable" in error.text:
                        raise Misconfigured(f"queue {queue} exists and is no stream: {error.text}") from error
                    # It exists with another retention, which stays: RabbitMQ changes it by a policy only.
                    watch = _Watch()
                    channel = await (await self._link.connection()).channel(watch)
                await channel.call(commands.Confirm.Select())
                channel.send(_opening(channel, queue, topic, partitions))
                await watch.confirmation()
        finally:
            channel.abandon()


def _opening(channel: Channel, queue: str, topic: str, partitions: int) -> bytes:
    event = {
        "specversion": "1.0",
        "id": queue,
        "source": "millstream:rabbitmq",
        "type": "millstream.partition.opened",
        "data": {"topic": topic, "partitions": partitions},
    }
    headers = table({OPENING: partitions})
    body = msgspec.json.encode(event)
    frames = content(channel.number, STRUCTURED.encode(), headers, body, channel.connection.largest_frame)
    return b"".join((publish(channel.number, queue), *frames))


def _first(errors: ExceptionGroup[MillstreamError]) -> MillstreamError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


class _Unfinished(TransportUnavailable):
    """The count is not there yet."""


class _Watch:
    """Collects what a channel tells, for a caller that waits for the first of it."""

    def __init__(self) -> None:
        self.headers: list[bytes] = []
        self._told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._told.add_done_callback(lambda told: told.cancelled() or told.exception())  # nobody need wait for it

    async def first(self) -> bytes:
        """The content header of the first delivery."""
        await asyncio.shield(self._told)
        return self.headers[0]

    async def confirmation(self) -> None:
        """That the one published message is durable."""
        await asyncio.shield(self._told)

    def delivered(self, tag: int, header: bytes, body: bytes) -> None:
        self.headers.append(header)
        self._tell(None)

    def confirmed(self, tag: int, multiple: bool) -> None:
        self._tell(None)

    def rejected(self, tag: int, multiple: bool) -> None:
        self._tell(Closed("the broker could not take it"))

    def returned(self, code: int, text: str) -> None:
        self._tell(Closed(f"the queue is gone again: {text}"))

    def cancelled(self) -> None:
        self._tell(Closed("the queue is gone"))

    def closed(self, error: Closed) -> None:
        self._tell(error)

    def _tell(self, error: Closed | None) -> None:
        if self._told.done():
            return
        if error is None:
            self._told.set_result(None)
        else:
            self._told.set_exception(error)
