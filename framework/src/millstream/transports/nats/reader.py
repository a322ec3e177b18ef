"""Reading one partition: an ordered pull consumer, as many records ahead as asked for, and no acknowledgements.

The consumer is ours alone, lives in the server's memory and holds no state that matters: when anything about it is in doubt
(a gap in its own numbering, silence, a lost connection) it is dropped, and another one starts behind the last record that
was returned. JetStream would start at the next record that is left without a word, so the partition's bounds are
compared each time one is made, and floors that retention raises meanwhile are heard of before it deletes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ...errors import MillstreamError, PositionGone, TransportUnavailable
from ...message import Record
from ...ports.transport import Bounds
from .connection import Connection
from .jetstream import ApiError, Code, JetStream
from .topics import Topic, Topics
from .wire import decode

__all__ = ["NatsReader", "ReaderHost"]

PREFETCH_RECORDS = 1_000
"""Two batches of the consumer: one is handled while the next one travels."""
HOST_PREFETCH_RECORDS = 65_536
"""All readers of a transport together: with a thousand partitions each reads less ahead."""
MIN_PREFETCH_RECORDS = 64
PREFETCH_BYTES = 4 * 1024 * 1024
EXPIRES_SECONDS = 30.0
HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 3.5
"""Without a record or a heartbeat for this long the consumer is taken for dead: its server may have been the stream's."""
INACTIVE_SECONDS = 60.0
"""The server forgets a consumer that nobody asks for this long."""
LAGGING_SECONDS = 3.0
"""A new leader may know less than the old one for a moment: a position beyond the end is looked at again before it is
believed."""


class ReaderHost(Protocol):
    """What a reader uses of its transport."""

    @property
    def jetstream(self) -> JetStream: ...
    @property
    def topics(self) -> Topics: ...
    async def connection(self) -> Connection: ...
    async def bounds(self, topic: str, partition: int) -> Bounds: ...
    def check_open(self) -> None: ...
    def start(self, reader: NatsReader) -> asyncio.Task[MillstreamError | None]: ...
    def stopped(self, reader: NatsReader) -> None: ...
    @property
    def reading(self) -> int: ...


class NatsReader:
    """Opens its consumer with the first `next`."""

    def __init__(self, host: ReaderHost, topic: str, partition: int, after: int) -> None:
        self.topic = topic
        self.partition = partition
        self._host = host
        self._after = after
        self._buffer: list[Record] = []
        self._waiter: asyncio.Future[None] | None = None
        self._opening: asyncio.Task[MillstreamError | None] | None = None
        self._consumer: _Consumer | None = None
        self._floor = 0
        self._closed = False

    async def next(self, limit: int) -> Sequence[Record]:
        while True:
            self._host.check_open()
            if self._floor > self._after:
                self._drop_consumer()
                raise PositionGone(self.topic, self.partition, self._after, self._floor)
            if self._buffer:
                return self._take(limit)
            if self._consumer is None or self._consumer.doubt:
                await self._reopen()
                continue
            self._consumer.ask_for_more(len(self._buffer))
            await self._wait(self._consumer)

    def _take(self, limit: int) -> list[Record]:
        found = self._buffer[:limit]
        del self._buffer[:limit]
        self._after = found[-1].position
        if self._consumer is not None and not self._consumer.doubt:
            self._consumer.ask_for_more(len(self._buffer))
        return found

    async def _wait(self, consumer: _Consumer) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._waiter
        except TimeoutError:
            if asyncio.get_running_loop().time() - consumer.heard_at > SILENCE_SECONDS:
                consumer.doubt = "silent"
        finally:
            self._waiter = None

    async def aclose(self) -> None:
        self._closed = True
        self._drop_consumer()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._host.stopped(self)

    # -- the consumer -------------------------------------------------------------------------------------------

    async def _reopen(self) -> None:
        self._drop_consumer()
        if self._opening is None:
            # In a task of the transport: a caller that gives up must not make the next one start over.
            self._opening = self._host.start(self)
        opening = self._opening
        await asyncio.wait([opening])
        self._opening = None
        if opening.cancelled():
            self._host.check_open()
            raise TransportUnavailable(f"{self.topic}/{self.partition}: the reader is closed")
        error = opening.result()
        if error is not None:
            raise error

    async def open(self) -> None:
        """Make a consumer behind the last record that was returned; run by the transport.

        Raises:
            PositionGone, Misconfigured, TransportUnavailable: as `next`.
        """
        topic = await self._host.topics.get(self.topic)
        subject = topic.subject(self.partition)
        connection = await self._host.connection()
        consumer = _Consumer(self, topic, subject, connection, self._after)
        try:
            # First the consumer, then the bounds: what retention deletes in between shows in them.
            await self._host.jetstream.ask(f"CONSUMER.CREATE.{topic.stream}.{consumer.name}", consumer.config())
            await self._check_bounds(topic)
        except BaseException as error:
            consumer.drop()
            if isinstance(error, ApiError) and error.code == Code.STREAM_NOT_FOUND:
                self._host.topics.forget(self.topic)
                await self._host.topics.get(self.topic)  # raises that it is not provisioned (any more)
            raise
        self._consumer = consumer

    async def _check_bounds(self, topic: Topic) -> None:
        until = asyncio.get_running_loop().time() + (LAGGING_SECONDS if topic.replicas > 1 else 0.0)
        while True:
            bounds = await self._host.bounds(self.topic, self.partition)
            if bounds.earliest <= self._after <= bounds.latest:
                return
            if self._after < bounds.earliest or asyncio.get_running_loop().time() >= until:
                raise PositionGone(self.topic, self.partition, self._after, bounds.earliest)
            await asyncio.sleep(0.1)

    def _drop_consumer(self) -> None:
        self._buffer.clear()
        if self._consumer is not None:
            self._consumer.drop()
            self._consumer = None

    @property
    def prefetch(self) -> int:
        """How many records may be on their way or in the buffer."""
        return max(MIN_PREFETCH_RECORDS, min(PREFETCH_RECORDS, HOST_PREFETCH_RECORDS // max(1, self._host.reading)))

    # -- what comes in ------------------------------------------------------------------------------------------

    def received(self, record: Record) -> None:
        """The next record, from the consumer in use."""
        self._buffer.append(record)
        self.wake()

    def raise_floor(self, floor: int) -> None:
        """Retention is about to delete up to this position."""
        self._floor = max(self._floor, floor)
        self.wake()

    def wake(self) -> None:
        """Look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Consumer:
    """One ephemeral consumer: its numbering, and how many records it still owes."""

    def __init__(self, reader: NatsReader, topic: Topic, subject: str, connection: Connection, after: int) -> None:
        self.name = secrets.token_hex(8)
        self.doubt = ""
        self.heard_at = asyncio.get_running_loop().time()
        self._reader = reader
        self._topic = topic
        self._subject = subject
        self._connection = connection
        self._after = after
        self._owed = 0
        self._expected = 1
        self._loop = asyncio.get_running_loop()
        self._inbox = b"%s.c.%s" % (connection.inbox, self.name.encode())
        self._number = connection.subscribe(self._inbox, self._on_message)
        self._ask = f"$JS.API.CONSUMER.MSG.NEXT.{topic.stream}.{self.name}".encode()
        connection.on_lost.add(self._on_lost)

    def config(self) -> dict[str, Any]:
        return {
            "stream_name": self._topic.stream,
            "config": {
                "name": self.name,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self._after + 1,
                "ack_policy": "none",
                "max_deliver": 1,
                "filter_subject": self._subject,
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": round(INACTIVE_SECONDS * 1e9),
            },
        }

    def ask_for_more(self, buffered: int) -> None:
        """Keep the reader's prefetch filled, in halves."""
        prefetch = self._reader.prefetch
        if self._owed + buffered > prefetch // 2:
            return
        batch = prefetch - self._owed - buffered
        question = {
            "batch": batch,
            "max_bytes": max(PREFETCH_BYTES, 2 * self._connection.info.max_payload),
            "expires": round(EXPIRES_SECONDS * 1e9),
            "idle_heartbeat": round(HEARTBEAT_SECONDS * 1e9),
        }
        body = msgspec.json.encode(question)
        try:
            self._connection.write(b"PUB %s %s %d\r\n%s\r\n" % (self._ask, self._inbox, len(body), body))
        except TransportUnavailable as error:
            self.doubt = str(error)
        else:
            self._owed += batch

    def drop(self) -> None:
        """Stop hearing from it, and tell the server to forget it; it would do so by itself after a minute."""
        self._connection.on_lost.discard(self._on_lost)
        if self._connection.lost_because is None:
            self._connection.unsubscribe(self._number)
            self._connection.write(f"PUB $JS.API.CONSUMER.DELETE.{self._topic.stream}.{self.name} 0\r\n\r\n".encode())

    def _on_lost(self) -> None:
        self._fail("the connection is lost")

    def _fail(self, why: str) -> None:
        if not self.doubt:
            self.doubt = why
        self._reader.wake()

    def _on_message(self, words: list[bytes], headers: bytes, body: bytes) -> None:
        self.heard_at = self._loop.time()
        if words[0] == self._inbox:  # of the server itself; records come under their own subject
            self._on_status(headers)
            return
        if self.doubt:
            return
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>, and in its second
        # form domain and account before the stream: this is how JetStream numbers what it delivers.
        tokens = words[2].split(b".")
        at = 5 if len(tokens) < 11 else 7
        if int(tokens[at + 1]) != self._expected:
            self._fail("a gap in what the consumer delivered")
            return
        self._expected += 1
        self._owed -= 1
        position = int(tokens[at])
        if position > self._after:
            # On a replica that lags JetStream begins at that replica's end, before where it was told to.
            self._reader.received(decode(headers, body, position))
        elif not self._owed:
            self._reader.wake()

    def _on_status(self, headers: bytes) -> None:
        status, _, rest = headers[9:].partition(b"\r\n")
        code = status[:3]
        if code == b"100":
            return
        if code in (b"404", b"408") or b"MaxBytes" in status or b"Batch Completed" in status:
            # A question ended with records still owed: they are not owed any more.
            for line in rest.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.strip().lower() == b"nats-pending-messages" and value.strip().isdigit():
                    self._owed = max(0, self._owed - int(value))
            self._reader.wake()
            return
        self._fail(status.decode(errors="replace"))
