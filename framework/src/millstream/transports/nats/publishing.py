"""Appending records (rule L2): atomic batches where the stream takes them; else, and when there are few, one unconfirmed
record per key.

A batch is sent as one piece and confirmed as a whole. When its confirmation does not come, nothing is known: it is stored
whole, now or a moment later, or not at all, and publishing it again makes repeats but never another order. A batch
that arrived in part is dropped by the server; the next attempt has another batch id.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence

from ...errors import Misconfigured, RecordRefused, TransportUnavailable
from ...message import Record
from .connection import Connection, NotPermitted
from .jetstream import ApiError, Code, stored
from .topics import Topic, Topics
from .wire import encode_headers

__all__ = ["HEADROOM_BYTES", "Publisher"]

BATCH_RECORDS = 500
"""JetStream takes up to 1,000 by default; the relay hands over up to 500."""
BATCH_BYTES = 8 * 1024 * 1024
"""A batch of large records ends here: the server keeps it in memory until its last message."""
SINGLY_UP_TO = 8
"""An atomic batch costs the server about ten milliseconds, however small it is: it keeps files for what is unfinished. So
many records are faster one by one, each with a write of its own."""
BATCHES_IN_FLIGHT = 16
"""Per topic. A stream takes 50 unfinished batches by default, from all processes together."""
SINGLES_IN_FLIGHT = 256
HEADROOM_BYTES = 8 * 1024
"""What a message's headers may take of the server's `max_payload`: a key of 1 KiB, percent-encoded, needs 3 KiB of it."""
BATCH_HEADER_BYTES = 128
MAX_HEADER_BYTES = 60 * 1024
"""JetStream's own bound is 64 KiB."""
INCOMPLETE_PAUSE_SECONDS = 0.05

_COMMIT = b"Nats-Batch-Commit:1\r\n"


class Publisher:
    """What one transport publishes.

    connect: gives an open connection. timeout: seconds until a confirmation that did not come counts as lost.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], topics: Topics, timeout: float) -> None:
        self._connect = connect
        self._topics = topics
        self._timeout = timeout
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._batch_prefix = secrets.token_hex(6)
        self._batches = 0

    async def publish(self, name: str, partition: int, records: Sequence[Record]) -> int:
        """What `Transport.publish` promises."""
        topic = await self._topics.get(name)
        subject = topic.subject(partition)
        connection = await self._connect()
        headers = [encode_headers(record.key) for record in records]
        refused = _first_refused(records, headers, topic, connection.info.max_payload)
        end = len(records) if refused is None else refused[0]
        slots = self._slots.setdefault(name, asyncio.Semaphore(BATCHES_IN_FLIGHT))
        done = 0
        while done < end:
            async with slots:
                done += await self._append(topic, subject, records[done:end], headers[done:end], done)
        if refused is not None:
            raise RecordRefused(*refused)
        return done

    async def _append(
        self, topic: Topic, subject: str, records: Sequence[Record], headers: Sequence[bytes], offset: int
    ) -> int:
        """Append a first part of the records; `offset` is where they stand in the caller's sequence."""
        try:
            if topic.atomic and len(records) > SINGLY_UP_TO:
                count = _fitting(records)
                await self._send_batch(subject, records[:count], headers[:count])
                return count
            return await self._send_singly(subject, records, headers)
        except NotPermitted as error:
            raise RecordRefused(offset, str(error)) from error
        except ApiError as error:
            if error.code == Code.STREAM_FULL:
                raise TransportUnavailable(
                    f"topic {topic.name}: {error.description}; make room, or raise the limits of stream {topic.stream}"
                ) from error
            self._topics.forget(topic.name)  # its limits, or whether it takes batches, may have been changed
            raise
        except TransportUnavailable:
            self._topics.forget(topic.name)  # no stream has the subject: it may have been deleted
            raise

    # -- batches ------------------------------------------------------------------------------------------------

    async def _send_batch(self, subject: str, records: Sequence[Record], headers: Sequence[bytes]) -> None:
        until = asyncio.get_running_loop().time() + self._timeout
        while True:
            connection = await self._connect()
            await connection.writable()
            reply, answer = connection.expect(subject)
            connection.write(self._frames(subject, reply, records, headers))
            try:
                stored(subject, *await connection.answer(subject, answer, self._timeout))
            except ApiError as error:
                # Too many unfinished batches on this stream or server, or its leader changed: nothing of it is stored.
                if error.code != Code.BATCH_INCOMPLETE or asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(INCOMPLETE_PAUSE_SECONDS)
            else:
                return

    def _frames(self, subject: str, reply: bytes, records: Sequence[Record], headers: Sequence[bytes]) -> bytes:
        name = subject.encode()
        if len(records) == 1:
            return _frame(name, reply, headers[0], records[0].value)
        self._batches += 1
        batch = f"Nats-Batch-Id:{self._batch_prefix}-{self._batches:x}\r\nNats-Batch-Sequence:".encode()
        last = len(records)
        frames = [
            _frame(name, b"", b"%s%s%d\r\n" % (head, batch, number), record.value)
            for number, (head, record) in enumerate(zip(headers[:-1], records, strict=False), 1)
        ]
        final = b"%s%s%d\r\n%s" % (headers[-1], batch, last, _COMMIT)
        frames.append(_frame(name, reply, final, records[-1].value))
        return b"".join(frames)

    # -- one by one ---------------------------------------------------------------------------------------------

    async def _send_singly(self, subject: str, records: Sequence[Record], headers: Sequence[bytes]) -> int:
        """In rounds: the next record of every key, all of them confirmed before the round after. Returns the confirmed
        prefix; raises only when it is empty."""
        confirmed = 0
        states = [False] * len(records)
        for indexes in _rounds(records):
            failure = await self._send_round(subject, records, headers, indexes, states)
            while confirmed < len(records) and states[confirmed]:
                confirmed += 1
            if failure is not None:
                if confirmed:
                    return confirmed
                raise failure
        return confirmed

    async def _send_round(
        self,
        subject: str,
        records: Sequence[Record],
        headers: Sequence[bytes],
        indexes: Sequence[int],
        states: list[bool],
    ) -> TransportUnavailable | None:
        connection = await self._connect()
        await connection.writable()
        name = subject.encode()
        sent: list[tuple[int, asyncio.Future[tuple[bytes, bytes]]]] = []
        frames: list[bytes] = []
        for index in indexes:
            reply, answer = connection.expect(subject)
            sent.append((index, answer))
            frames.append(_frame(name, reply, headers[index], records[index].value))
        failure: TransportUnavailable | None = None
        try:
            connection.write(b"".join(frames))
            for index, answer in sent:
                try:
                    stored(subject, *await connection.answer(subject, answer, self._timeout))
                    states[index] = True
                except NotPermitted:
                    raise
                except TransportUnavailable as error:
                    failure = failure or error
        finally:
            for _, answer in sent:
                answer.cancel()
        return failure


def _frame(subject: bytes, reply: bytes, headers: bytes, value: bytes) -> bytes:
    size = len(headers) + 2
    return b"HPUB %s %s %d %d\r\n%s\r\n%s\r\n" % (subject, reply, size, size + len(value), headers, value)


def _fitting(records: Sequence[Record]) -> int:
    """How many leading records make a batch."""
    size = 0
    for count, record in enumerate(records[:BATCH_RECORDS]):
        size += len(record.value)
        if size > BATCH_BYTES and count:
            return count
    return min(len(records), BATCH_RECORDS)


def _rounds(records: Sequence[Record]) -> list[list[int]]:
    """Indexes in rounds: no key twice in one, and each key's records in their order. Without a key nothing waits."""
    rounds: list[list[int]] = []
    next_round: dict[str, int] = {}
    open_round = 0
    for index, record in enumerate(records):
        number = open_round if record.key is None else max(open_round, next_round.get(record.key, 0))
        while len(rounds) <= number:
            rounds.append([])
        while len(rounds[number]) >= SINGLES_IN_FLIGHT:
            number += 1
            if len(rounds) <= number:
                rounds.append([])
        rounds[number].append(index)
        if record.key is not None:
            next_round[record.key] = number + 1
        while open_round < len(rounds) and len(rounds[open_round]) >= SINGLES_IN_FLIGHT:
            open_round += 1
    return rounds


def _first_refused(
    records: Sequence[Record], headers: Sequence[bytes], topic: Topic, max_payload: int
) -> tuple[int, str] | None:
    largest = max_payload - HEADROOM_BYTES
    if topic.max_message_bytes is not None and topic.max_message_bytes < max_payload:
        largest = topic.max_message_bytes - HEADROOM_BYTES
        max_payload = topic.max_message_bytes
    for index, record in enumerate(records):
        size, head = len(record.value), len(headers[index]) + BATCH_HEADER_BYTES
        if size > largest:
            return index, f"{size} bytes, this log carries {largest}; raise the server's max_payload"
        if head > MAX_HEADER_BYTES or size + head > max_payload:
            return index, f"its key takes {head} bytes as a header, too many beside a value of {size} bytes"
    return None


def largest_record_bytes(max_payload: int) -> int:
    """The largest value beside its headers.

    Raises:
        Misconfigured: a message of a million bytes does not fit.
    """
    largest = max_payload - HEADROOM_BYTES
    if largest < 1_000_000:
        raise Misconfigured(
            f"NATS: max_payload is {max_payload} bytes; messages may have 1 MB: set max_payload to 1MB or more"
        )
    return largest
