"""Publishing to one stream queue: a confirmed prefix, and an order of first occurrences that nothing changes (rule L2).

**One unconfirmed record per key.** One channel is a sequence, and a single broker keeps it; between the nodes of a cluster
it is a message to another Erlang node, and a connection between nodes that breaks and heals loses some of them and
delivers the next. So a record leaves when its key's previous one is confirmed; other keys do not wait. A thousand keys
keep hundreds of records on their way, one hot key costs a round trip per record.

**A channel of its own per queue, thrown away after anything unusual.** RabbitMQ repeats what a dying leader had not
confirmed under the channel's confirmation numbers, and drops what it takes for a duplicate by them. These are the
stream's own numbers only while the channel publishes to nothing else and had nothing returned (rabbit_stream_queue,
resend_all, 3.10.8). A stream confirms in order; a confirmation that overtakes another one means that a record was lost
on its way, and the channel is given up before the broker can take it for a duplicate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import final

from pamqp import commands

from ...errors import MillstreamError, RecordRefused, TransportUnavailable
from ...message import Record
from .connection import Channel, Closed, RefusedByServer
from .frames import HEADERS_LIMIT_BYTES, publish
from .link import PRECONDITION_FAILED, Link, translated
from .wire import encoded

__all__ = ["IN_FLIGHT_BYTES", "IN_FLIGHT_RECORDS", "Publisher"]

IN_FLIGHT_RECORDS = 1000
IN_FLIGHT_BYTES = 8 * 1024 * 1024
"""What one partition has on its way at most: RabbitMQ slows a channel down from 256 unconfirmed records on, and what the
socket does not take waits in memory."""


@final
class Publisher:
    """Publishes to one queue; calls may overlap. largest: bytes of the largest value. unroutable: raises the reason why a
    record found no queue."""

    def __init__(self, link: Link, queue: str, largest: int, unroutable: Callable[[str], Awaitable[None]]) -> None:
        self._link = link
        self._queue = queue
        self._largest = largest
        self._unroutable = unroutable
        self._opening = asyncio.Lock()
        self._confirming: _Confirming | None = None

    async def publish(self, records: Sequence[Record]) -> int:
        """As the port says."""
        refused = next(filter(None, (self._refusal(index, record) for index, record in enumerate(records))), None)
        sent = records if refused is None else records[: refused.index]
        confirmed = await self._send(sent) if sent else 0
        if refused is not None and confirmed == refused.index:
            raise refused
        return confirmed

    def _refusal(self, index: int, record: Record) -> RecordRefused | None:
        if len(record.value) > self._largest:
            return RecordRefused(
                index,
                f"{len(record.value)} bytes, this log carries {self._largest}: raise largest_record_bytes in the URL, "
                "below the broker's max_message_size",
            )
        if record.key is not None and len(record.key) > HEADERS_LIMIT_BYTES // 4:  # a character is up to four bytes
            return RecordRefused(index, f"a key of {len(record.key)} characters does not fit into a header")
        return None

    async def _send(self, records: Sequence[Record]) -> int:
        try:
            return await self._send_together(records)
        except _Refused as error:
            if len(records) == 1:
                raise RecordRefused(0, error.text) from error
            confirmed = error.confirmed
        # The broker closed the channel over one of them and does not say which: send them one by one. What was on its
        # way may be there already, and is repeated.
        for index in range(confirmed, len(records)):
            try:
                if await self._send_together(records[index : index + 1]) == 0:
                    return index
            except _Refused as error:
                raise RecordRefused(index, error.text) from error
            except TransportUnavailable:
                if index == 0:
                    raise
                return index
        return len(records)

    async def _send_together(self, records: Sequence[Record]) -> int:
        confirming = await self._open_channel()
        call = _Call(records, asyncio.get_running_loop().create_future())
        confirming.start(call)
        try:
            await self._finished(call)
        except BaseException:
            confirming.abandon(call)
            raise
        if call.error is None:
            return len(records)
        confirmed, error = call.prefix(), call.error
        if isinstance(error, _Returned):
            await self._unroutable(self._queue)
        if isinstance(error, Closed):
            if isinstance(error, RefusedByServer) and error.code == PRECONDITION_FAILED:
                raise _Refused(confirmed, error.text)
            error = translated(error, f"publish to {self._queue}")
        if confirmed and isinstance(error, TransportUnavailable):
            return confirmed
        raise error

    async def _finished(self, call: _Call) -> None:
        """Wait until the call is done; give the broker up when nothing was confirmed for a whole time limit."""
        while not call.done.done():
            before = call.left
            await asyncio.wait([call.done], timeout=self._link.timeout)
            if not call.done.done() and call.left == before:
                self._link.abort(f"nothing was confirmed for {self._link.timeout:g} s")

    async def _open_channel(self) -> _Confirming:
        if self._confirming is None or not self._confirming.usable:
            async with self._opening:
                if self._confirming is None or not self._confirming.usable:
                    confirming = _Confirming(self._queue)
                    confirming.channel = await self._link.channel(confirming)
                    try:
                        async with self._link.bounded(f"publish to {self._queue}"):
                            await confirming.channel.call(commands.Confirm.Select())
                    except BaseException:
                        confirming.channel.abandon()
                        raise
                    self._confirming = confirming
        self._link.check_open()
        connection = self._confirming.channel.connection
        if connection.blocked is not None:
            reason = connection.blocked
            try:
                async with asyncio.timeout(self._link.timeout):
                    await connection.unblocked.wait()
            except TimeoutError:
                raise TransportUnavailable(f"RabbitMQ takes nothing from publishers: {reason}") from None
        return self._confirming


class _Refused(Exception):
    """The broker will not take one of the records; `confirmed` leading ones are durable."""

    def __init__(self, confirmed: int, text: str) -> None:
        super().__init__(text)
        self.confirmed = confirmed
        self.text = text


class _Returned(TransportUnavailable):
    """A record found no queue."""


class _Call:
    """One publish under way. `ready` holds what may leave: whose key has nothing unconfirmed in this call."""

    __slots__ = ("_confirmed", "_next_of_key", "done", "error", "left", "ready", "records")

    def __init__(self, records: Sequence[Record], done: asyncio.Future[None]) -> None:
        self.records = records
        self.done = done
        self.error: Closed | MillstreamError | None = None
        self.left = len(records)
        self.ready: deque[int] = deque()
        self._confirmed = bytearray(len(records))
        self._next_of_key: dict[int, int] = {}
        latest: dict[str, int] = {}
        for index, record in enumerate(records):
            key = record.key
            if key is not None:
                before = latest.get(key)
                latest[key] = index
                if before is not None:
                    self._next_of_key[before] = index
                    continue
            self.ready.append(index)

    def confirm(self, index: int) -> None:
        self._confirmed[index] = 1
        self.left -= 1
        follower = self._next_of_key.get(index)
        if follower is not None:
            self.ready.append(follower)
        if self.left == 0:
            self.finish(None)

    def finish(self, error: Closed | MillstreamError | None) -> None:
        self.ready.clear()
        if not self.done.done():
            self.error = error
            self.done.set_result(None)

    def prefix(self) -> int:
        """How many leading records are confirmed."""
        first_unconfirmed = self._confirmed.find(0)
        return len(self.records) if first_unconfirmed < 0 else first_unconfirmed


@final
class _Confirming:
    """A channel in confirm mode: what is on its way, in the order of its confirmation numbers."""

    channel: Channel

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._publish = b""
        self._calls: list[_Call] = []
        self._on_the_way: deque[tuple[_Call, int, int]] = deque()
        self._bytes_on_the_way = 0
        self._first_number = 1
        self._scheduled = False
        self._over = False

    @property
    def usable(self) -> bool:
        return not self._over and self.channel.error is None

    def start(self, call: _Call) -> None:
        if self._over:
            call.finish(Closed("the channel was closed"))
            return
        self._calls.append(call)
        self._pump()

    def abandon(self, call: _Call) -> None:
        """The caller gave up: nothing more of it leaves. What is on its way may become durable."""
        call.finish(None)
        if call in self._calls:
            self._calls.remove(call)

    # -- Listener -------------------------------------------------------------------------------------------------

    def confirmed(self, tag: int, multiple: bool) -> None:
        count = tag - self._first_number + 1
        if count > len(self._on_the_way) or (count != 1 and not multiple):
            self._give_up(TransportUnavailable(f"{self._queue}: a record was lost on its way in the cluster"))
            return
        for _ in range(count):
            call, index, size = self._on_the_way.popleft()
            self._bytes_on_the_way -= size
            call.confirm(index)
        self._first_number = tag + 1
        # Confirmations come in crowds: what they set free leaves together.
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def rejected(self, tag: int, multiple: bool) -> None:
        self._give_up(TransportUnavailable(f"{self._queue}: the broker could not take a record"))

    def returned(self, code: int, text: str) -> None:
        self._give_up(_Returned(f"{self._queue}: {code} {text}"))

    def delivered(self, tag: int, header: bytes, body: bytes) -> None: ...

    def cancelled(self) -> None: ...

    def closed(self, error: Closed) -> None:
        self._end(error)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _give_up(self, error: MillstreamError) -> None:
        self.channel.abandon()
        self._end(error)

    def _end(self, error: Closed | MillstreamError) -> None:
        self._over = True
        self._on_the_way.clear()
        calls, self._calls = self._calls, []
        for call in calls:
            call.finish(error)

    def _pump(self) -> None:
        """Send what may leave, as one write."""
        self._scheduled = False
        if self._over:
            return
        number, largest_frame = self.channel.number, self.channel.connection.largest_frame
        method = self._publish = self._publish or publish(number, self._queue)
        on_the_way = self._on_the_way
        parts: list[bytes] = []
        finished = False
        for call in self._calls:
            finished = finished or call.left == 0
            while call.ready and len(on_the_way) < IN_FLIGHT_RECORDS and self._bytes_on_the_way < IN_FLIGHT_BYTES:
                index = call.ready.popleft()
                record = call.records[index]
                size = len(record.value)
                parts.append(method)
                parts += encoded(number, record, largest_frame)
                on_the_way.append((call, index, size))
                self._bytes_on_the_way += size
        if finished:
            self._calls = [call for call in self._calls if call.left > 0]
        if parts:
            self.channel.send(b"".join(parts))
