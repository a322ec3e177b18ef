"""Reading one stream queue forward from a position (rule L3), and noticing when it cannot (rule L4).

RabbitMQ attaches a consumer to the nearest offset without a word, so the reader attaches **at** the last record that was
read and expects to see it, or the record right behind it. Anything later means that records are gone. Nothing at all
means that the position lies beyond the end: a queue is never empty (`topics.py`), so a valid position always has
something to show. A replica may lag behind the leader, so it gets a few seconds to show it.

Nor does it say a word when retention overtakes a consumer that is attached: it goes on at the oldest segment that is left.
So every step is watched. One missing offset is RabbitMQ's own entry at the beginning of a segment (the tracking of
publishers; osiris_log, evaluate_tracking_snapshot); where more are missing, the partition's beginning tells whether
they were records.

Memory is bounded by the prefetch: acknowledgements only widen that window, RabbitMQ keeps no state for a stream's
consumer. It sends whole chunks, so the window may be exceeded by one chunk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import final

from pamqp import commands

from ...errors import Misconfigured, PositionGone
from ...message import Record
from ...ports.transport import Bounds
from .connection import Channel, Closed, RefusedByServer
from .frames import ack
from .link import Link, no_queue, translated
from .wire import offset_of, record

__all__ = ["LAG_SECONDS", "StreamReader", "consume"]

LAG_SECONDS = 3.0
"""How long the last record read may stay away before the log counts as lost. A replica that is further behind makes an
alarm that was not needed, and reading goes on at the next try."""
_FIRST_LOOK_SECONDS = 0.25


async def consume(channel: Channel, queue: str, offset: int | str, prefetch: int) -> None:
    """Begin to receive a stream's records from an offset on, or from `first` or `last`.

    Raises:
        Misconfigured: there is no such queue, or it is no stream.
        Closed: the channel is gone.
    """
    await channel.call(commands.Basic.Qos(prefetch_count=prefetch))
    try:
        await channel.call(commands.Basic.Consume(queue=queue, arguments={"x-stream-offset": offset}))
    except RefusedByServer as error:
        if no_queue(error):
            raise Misconfigured(f"there is no queue {queue}: provision its topic") from error
        raise


@final
class StreamReader:
    """check: raises where topic or partition do not exist. bounds: those of the partition, now."""

    def __init__(
        self,
        link: Link,
        place: tuple[str, int],
        after: int,
        *,
        prefetch: int,
        check: Callable[[], Awaitable[None]],
        bounds: Callable[[], Awaitable[Bounds]],
    ) -> None:
        self._link = link
        self._topic, self._partition = place
        self._queue = f"{self._topic}.{self._partition}"
        self._after = after
        self._prefetch = prefetch
        self._check = check
        self._bounds = bounds
        self._delivered: deque[tuple[int, bytes, bytes]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._channel: Channel | None = None
        self._attached = False
        self._unacknowledged = 0
        self._no_record_before = 0
        self._error: Closed | None = None

    async def next(self, limit: int) -> Sequence[Record]:
        """As the port says."""
        self._link.check_open()
        if not self._attached:
            await self._attach()
        while True:
            if self._delivered:
                found = self._take(limit)
                if found:
                    return found
                if self._delivered:
                    await self._look_into_the_gap()
            else:
                await self._wait()

    async def aclose(self) -> None:
        """As the port says."""
        self._detach()

    # -- Listener -------------------------------------------------------------------------------------------------

    def delivered(self, tag: int, header: bytes, body: bytes) -> None:
        self._delivered.append((tag, header, body))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cancelled(self) -> None:
        self.closed(Closed("the broker ended the consumer: the queue was deleted, or its node left"))

    def closed(self, error: Closed) -> None:
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def confirmed(self, tag: int, multiple: bool) -> None: ...

    def rejected(self, tag: int, multiple: bool) -> None: ...

    def returned(self, code: int, text: str) -> None: ...

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _attach(self) -> None:
        """Attach at the last record read, and see it."""
        await self._check()
        self._detach()
        try:
            self._channel = await self._link.channel(self)
            async with self._link.bounded(f"read {self._queue}"):
                await consume(self._channel, self._queue, max(0, self._after - 1), self._prefetch)
            await self._see_where_we_are()
        except BaseException:
            self._detach()
            raise
        self._attached = True

    async def _see_where_we_are(self) -> None:
        try:
            async with asyncio.timeout(_FIRST_LOOK_SECONDS):
                await self._wait()
        except TimeoutError:
            await self._look_for_the_end()
        _, header, body = self._delivered[0]
        offset, _ = record(header, body)
        # Behind our record comes offset `after`, or `after` + 1 behind the entry that begins a segment: a reader that had
        # read all of a segment that is gone by now has missed nothing.
        if offset > (self._after + 1 if self._after else 0):
            raise PositionGone(self._topic, self._partition, self._after, offset)

    async def _look_for_the_end(self) -> None:
        """Nothing is shown: wait while the end is not known to lie before our position."""
        try:
            async with asyncio.timeout(LAG_SECONDS):
                while not self._delivered:
                    bounds = await self._bounds()
                    if bounds.latest >= self._after:
                        return await self._wait()
                    await asyncio.sleep(_FIRST_LOOK_SECONDS)
        except TimeoutError:
            bounds = await self._bounds()
            if not self._delivered:
                raise PositionGone(self._topic, self._partition, self._after, bounds.earliest) from None

    async def _wait(self) -> None:
        """Until something is delivered.

        Raises:
            TransportUnavailable: the channel is gone and nothing is left to return.
        """
        if self._delivered:
            return
        if self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if not self._delivered and self._error is not None:
            error = translated(self._error, f"read {self._queue}")
            self._detach()
            raise error

    async def _look_into_the_gap(self) -> None:
        """Offsets are missing before the next delivery: retention deletes from the beginning, so where the partition still
        reaches back to us they were never records."""
        offset = offset_of(self._delivered[0][1])
        bounds = await self._bounds()
        if bounds.earliest > self._after + 1:
            self._detach()
            raise PositionGone(self._topic, self._partition, self._after, bounds.earliest)
        self._no_record_before = offset

    def _take(self, limit: int) -> list[Record]:
        """What is delivered, up to a gap that nobody has looked into."""
        found: list[Record] = []
        delivered, after, tag = self._delivered, self._after, 0
        while delivered and len(found) < limit:
            offset, entry = record(delivered[0][1], delivered[0][2])
            if offset > after + 1 and offset > self._no_record_before:
                break
            tag = delivered.popleft()[0]
            self._unacknowledged += 1
            if offset < after:
                continue  # the record at which we attached
            after = offset + 1
            if entry is not None:  # else it opens the partition
                found.append(entry)
        self._after = after
        if self._channel is not None and tag and (self._unacknowledged * 2 >= self._prefetch or not delivered):
            self._channel.send(ack(self._channel.number, tag))
            self._unacknowledged = 0
        return found

    def _detach(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.abandon()
        self._attached = False
        self._delivered.clear()
        self._unacknowledged = 0
        self._error = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.cancel()
