"""A reader of one partition, fed by a shared consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final, Protocol, final

from confluent_kafka import KafkaError, Message

from ...errors import PositionGone, TransportUnavailable
from ...message import Record
from ...ports.transport import Bounds
from .connection import NOT_THERE, translated
from .fetcher import Feed, Fetcher
from .wire import to_record

__all__ = ["Host", "KafkaReader"]

_GONE: Final = frozenset(
    {
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.OFFSET_OUT_OF_RANGE,
    }
)


class Host(Protocol):
    """What a reader needs of its transport."""

    async def check(self, topic: str, partition: int) -> None:
        """Raise what the port says about a partition that is not there, or a log that is away."""
        ...

    def fetcher_for(self, topic: str, partition: int) -> Fetcher: ...

    async def bounds(self, topic: str, partition: int) -> Bounds: ...


@final
class KafkaReader:
    """Begins to fetch at the first `next`; after an error the next call begins again where it stands."""

    def __init__(self, host: Host, topic: str, partition: int, after: int) -> None:
        self._host = host
        self._topic = topic
        self._partition = partition
        self._after = after
        self._fetcher: Fetcher | None = None
        self._feed: Feed | None = None
        self._came: deque[Message] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: KafkaError | str | None = None
        self._closed = False

    async def next(self, limit: int) -> Sequence[Record]:
        self._check_open()
        if self._fetcher is None or self._feed is None:
            await self._host.check(self._topic, self._partition)
            self._fetcher = self._host.fetcher_for(self._topic, self._partition)
            # The offset of the next record is the position of the last one.
            self._feed = self._fetcher.open((self._topic, self._partition), self._after, self)
        while not self._came:
            if self._error is not None:
                await self._raise(self._error)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
            self._check_open()
        taken = list(islice(self._came, limit))
        records = [to_record(message) for message in taken]
        for _ in taken:
            self._came.popleft()
        self._after = records[-1].position
        self._fetcher.took(self._feed, taken)
        return records

    async def aclose(self) -> None:
        self._closed = True
        self._stop()
        self._wake()

    def receive(self, messages: Sequence[Message]) -> None:
        """From the fetcher, on the event loop."""
        self._came.extend(messages)
        self._wake()

    def fail(self, error: KafkaError | str) -> None:
        """From the fetcher, or from the transport when the log is away. What came before is still handed on."""
        self._error = error
        self._wake()

    async def _raise(self, error: KafkaError | str) -> None:
        self._stop()
        if isinstance(error, str):
            raise TransportUnavailable(error)
        if error.code() in NOT_THERE:
            await self._host.check(self._topic, self._partition)
        elif error.code() in _GONE:
            bounds = await self._host.bounds(self._topic, self._partition)
            if not bounds.earliest <= self._after <= bounds.latest:
                raise PositionGone(self._topic, self._partition, self._after, bounds.earliest)
        raise translated(error, f"reading {self._topic}/{self._partition}")

    def _stop(self) -> None:
        if self._fetcher is not None and self._feed is not None:
            self._fetcher.close(self._feed)
        self._fetcher = self._feed = self._error = None
        self._came.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportUnavailable(f"kafka: this reader of {self._topic}/{self._partition} is closed")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
