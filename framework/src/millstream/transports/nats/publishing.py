"""Appending records (rule L2), in groups: atomic batches where the stream takes them; else, and when there are few, one
unconfirmed record per key.

An atomic batch costs the server about ten milliseconds, however small it is, and one stream holds all partitions of a
topic: so what several callers publish to one topic at the same time travels together, confirmed by one answer.

A batch is sent as one piece and stored as a whole. When its confirmation does not come, nothing is known: it is stored now, or a
moment later, or not at all, and publishing it again makes repeats but never another order. A batch that arrived in
part is dropped by the server; the next attempt has another batch id.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from ...errors import MillstreamError, Misconfigured, RecordRefused, TransportUnavailable
from ...message import Record
from .connection import Connection, NotPermitted
from .jetstream import ApiError, Code, stored
from .topics import Topic, Topics
from .wire import encode_headers

__all__ = ["HEADROOM_BYTES", "Publisher", "largest_record_bytes"]

PIECE_RECORDS = 500
"""So many records of one caller travel together at most; the relay hands over up to 500."""
GROUP_RECORDS = 1_000
"""JetStream takes up to 1,000 messages in a batch by default."""
GROUP_BYTES = 8 * 1024 * 1024
"""A batch of large records ends here: the server keeps it in memory until its last message."""
SINGLY_UP_TO = 8
"""So many records are faster one by one, each with a write of its own, than as a batch."""
GROUPS_IN_FLIGHT = 2
"""Per topic: one is stored while the next one travels. A stream takes 50 unfinished batches, from all processes."""
SINGLES_IN_FLIGHT = 256
HEADROOM_BYTES = 8 * 1024
"""What a message's headers may take of the server's `max_payload`: a key of 1 KiB, percent-encoded, needs 3 KiB of it."""
BATCH_HEADER_BYTES = 128
MAX_HEADER_BYTES = 60 * 1024
"""JetStream's own bound is 64 KiB."""
INCOMPLETE_PAUSE_SECONDS = 0.05

_COMMIT = b"Nats-Batch-Commit:1\r\n"


class _Piece:
    """Records of one caller for one partition; `done` gets how many leading ones are durable."""

    __slots__ = ("done", "headers", "records", "subject")

    def __init__(self, subject: str, records: Sequence[Record], headers: Sequence[bytes]) -> None:
        self.subject = subject
        self.records = records
        self.headers = headers
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def confirm(self, count: int) -> None:
        if not self.done.done():
            self.done.set_result(count)

    def fail(self, error: MillstreamError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Lane:
    """What waits to be published to one topic."""

    __slots__ = ("sending", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Piece] = deque()
        self.sending = 0

    def take(self, group_records: int) -> list[_Piece]:
        """The pieces that travel next. A caller that gave up before that takes its piece along."""
        group: list[_Piece] = []
        count = size = 0
        while self.waiting:
            piece = self.waiting[0]
            if piece.done.done():
                self.waiting.popleft()
                continue
            count += len(piece.records)
            size += sum(len(record.value) for record in piece.records)
            if group and (count > group_records or size > GROUP_BYTES):
                break
            group.append(self.waiting.popleft())
        return group


class Publisher:
    """What one transport publishes.

    connect: gives an open connection. spawn: runs a task of the transport. timeout: seconds until a confirmation that did
    not come counts as lost.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        spawn: Callable[[Coroutine[None, None, None]], object],
        topics: Topics,
        timeout: float,
    ) -> None:
        self._connect = connect
        self._spawn = spawn
        self._topics = topics
        self._timeout = timeout
        self._lanes: dict[str, _Lane] = {}
        self._group_records = GROUP_RECORDS
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
        done = 0
        while done < end:
            count = _fitting(records[done:end], self._group_records)
            piece = _Piece(subject, records[done : done + count], headers[done : done + count])
            self._enqueue(topic, piece)
            try:
                confirmed = await piece.done
            except NotPermitted as error:
                raise RecordRefused(done, str(error)) from error
            done += confirmed
            if confirmed < count:
                return done
        if refused is not None:
            raise RecordRefused(*refused)
        return done

    # -- groups -------------------------------------------------------------------------------------------------

    def _enqueue(self, topic: Topic, piece: _Piece) -> None:
        lane = self._lanes.setdefault(topic.name, _Lane())
        lane.waiting.append(piece)
        if lane.sending < GROUPS_IN_FLIGHT:
            lane.sending += 1
            # A task of its own: a caller that gives up must not take the others along. It starts after those who are
            # about to publish too, so that they share its first group.
            self._spawn(self._drain(topic, lane))

    async def _drain(self, topic: Topic, lane: _Lane) -> None:
        group: list[_Piece] = []
        try:
            while group := lane.take(self._group_records):
                await self._send(topic, lane, group)
        finally:
            lane.sending -= 1
            if any(not piece.done.done() for piece in group):  # cancelled: the transport closes
                _fail([*group, *lane.waiting], TransportUnavailable("the NATS log is closed"))

    async def _send(self, topic: Topic, lane: _Lane, group: list[_Piece]) -> None:
        try:
            if topic.atomic and sum(len(piece.records) for piece in group) > SINGLY_UP_TO:
                await self._send_batch(group)
            else:
                await self._send_singly(group)
        except NotPermitted as error:
            # Which partition is meant is known when it stands alone.
            for piece in [piece for piece in group if not piece.done.done()]:
                if len(group) > 1:
                    await self._send(topic, lane, [piece])
                else:
                    piece.fail(error)
        except TransportUnavailable as error:
            self._topics.forget(topic.name)  # deleted, or with other limits, or without batches: look at it again
            # Who waits behind them is told now: each of them would wait for as long as these did.
            _fail([*group, *lane.waiting], self._explained(topic, error))
        except Misconfigured as error:
            _fail([*group, *lane.waiting], error)

    def _explained(self, topic: Topic, error: TransportUnavailable) -> TransportUnavailable:
        if isinstance(error, ApiError) and error.code == Code.STREAM_FULL:
            return TransportUnavailable(
                f"topic {topic.name}: {error.description}; make room, or raise the limits of stream {topic.stream}"
            )
        if isinstance(error, ApiError) and error.code == Code.BATCH_TOO_LARGE:
            self._group_records = max(2, self._group_records // 2)
        return error

    # -- batches ------------------------------------------------------------------------------------------------

    async def _send_batch(self, group: list[_Piece]) -> None:
        until = asyncio.get_running_loop().time() + self._timeout
        subjects = " ".join(piece.subject for piece in group)
        while True:
            connection = await self._connect()
            await connection.writable()
            reply, answer = connection.expect(subjects)
            connection.write(self._frames(group, reply))
            try:
                stored(subjects, *await connection.answer(subjects, answer, self._timeout))
            except ApiError as error:
                # Too many unfinished batches on this stream or server, or its leader changed: nothing of it is stored.
                if error.code != Code.BATCH_INCOMPLETE or asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(INCOMPLETE_PAUSE_SECONDS)
            else:
                for piece in group:
                    piece.confirm(len(piece.records))
                return

    def _frames(self, group: list[_Piece], reply: bytes) -> bytes:
        self._batches += 1
        batch = f"Nats-Batch-Id:{self._batch_prefix}-{self._batches:x}\r\nNats-Batch-Sequence:".encode()
        number, last = 0, sum(len(piece.records) for piece in group)
        frames: list[bytes] = []
        for piece in group:
            subject = piece.subject.encode()
            for head, record in zip(piece.headers, piece.records, strict=True):
                number += 1
                if number < last:
                    frames.append(_frame(subject, b"", b"%s%s%d\r\n" % (head, batch, number), record.value))
                else:
                    final = b"%s%s%d\r\n%s" % (head, batch, number, _COMMIT)
                    frames.append(_frame(subject, reply, final, record.value))
        return b"".join(frames)

    # -- one by one ---------------------------------------------------------------------------------------------

    async def _send_singly(self, group: list[_Piece]) -> None:
        """In rounds: the next record of every key, all of them confirmed before the round after."""
        places = [(piece, index) for piece in group for index in range(len(piece.records))]
        confirmed = {piece: [False] * len(piece.records) for piece in group}
        for numbers in _rounds([piece.records[index].key for piece, index in places]):
            failure = await self._send_round([places[number] for number in numbers], confirmed)
            if failure is not None:
                for piece in group:
                    prefix = [*confirmed[piece], False].index(False)
                    if prefix:
                        piece.confirm(prefix)
                raise failure
        for piece in group:
            piece.confirm(len(piece.records))

    async def _send_round(
        self, places: list[tuple[_Piece, int]], confirmed: dict[_Piece, list[bool]]
    ) -> TransportUnavailable | None:
        connection = await self._connect()
        await connection.writable()
        frames: list[bytes] = []
        answers: list[asyncio.Future[tuple[bytes, bytes]]] = []
        for piece, index in places:
            reply, answer = connection.expect(piece.subject)
            answers.append(answer)
            frames.append(_frame(piece.subject.encode(), reply, piece.headers[index], piece.records[index].value))
        failure: TransportUnavailable | None = None
        try:
            connection.write(b"".join(frames))
            for (piece, index), answer in zip(places, answers, strict=True):
                try:
                    stored(piece.subject, *await connection.answer(piece.subject, answer, self._timeout))
                    confirmed[piece][index] = True
                except TransportUnavailable as error:
                    failure = failure or error
        finally:
            for answer in answers:
                answer.cancel()
        return failure


def _fail(pieces: list[_Piece], error: MillstreamError) -> None:
    for piece in pieces:
        piece.fail(error)


def _frame(subject: bytes, reply: bytes, headers: bytes, value: bytes) -> bytes:
    size = len(headers) + 2
    return b"HPUB %s %s %d %d\r\n%s\r\n%s\r\n" % (subject, reply, size, size + len(value), headers, value)


def _fitting(records: Sequence[Record], group_records: int) -> int:
    """How many leading records make a piece."""
    most = min(PIECE_RECORDS, group_records)
    size = 0
    for count, record in enumerate(records[:most]):
        size += len(record.value)
        if size > GROUP_BYTES and count:
            return count
    return min(len(records), most)


def _rounds(keys: Sequence[str | None]) -> list[list[int]]:
    """Places in rounds: no key twice in one, and each key's places in their order. Without a key nothing waits."""
    rounds: list[list[int]] = []
    earliest: dict[str, int] = {}
    room = 0  # the first round that is not full
    for place, key in enumerate(keys):
        number = room if key is None else max(room, earliest.get(key, 0))
        while number < len(rounds) and len(rounds[number]) >= SINGLES_IN_FLIGHT:
            number += 1
        while len(rounds) <= number:
            rounds.append([])
        rounds[number].append(place)
        if key is not None:
            earliest[key] = number + 1
        while room < len(rounds) and len(rounds[room]) >= SINGLES_IN_FLIGHT:
            room += 1
    return rounds


def _first_refused(
    records: Sequence[Record], headers: Sequence[bytes], topic: Topic, max_payload: int
) -> tuple[int, str] | None:
    most = min(max_payload, topic.max_message_bytes or max_payload)
    largest = most - HEADROOM_BYTES
    for index, record in enumerate(records):
        size, head = len(record.value), len(headers[index]) + BATCH_HEADER_BYTES
        if size > largest:
            raise_what = (
                "max_payload of the server" if most == max_payload else f"max_msg_size of stream {topic.stream}"
            )
            return index, f"{size} bytes, this log carries {largest}; raise {raise_what}"
        if head > MAX_HEADER_BYTES or size + head > most:
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
