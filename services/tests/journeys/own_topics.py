"""A log that many tests share, as one of them sees it: its topics carry its name, so that it begins empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from millstream.message import Record
from millstream.ports.transport import Bounds, Reader, Transport

__all__ = ["Observed", "OwnTopics"]

Observe = Callable[[str, Sequence[Record]], None]


class OwnTopics:
    """One connection to the log. Opened again, it is a new one on the same topics.

    make: an adapter that is not open yet. name: what this test's topics begin with.
    """

    def __init__(self, make: Callable[[], Transport], name: str) -> None:
        self._make = make
        self._name = name
        self._log: Transport | None = None

    async def provision(self, topic: str, partitions: int) -> None:
        await self.log.provision(self._own(topic), partitions)

    async def partitions(self, topic: str) -> int | None:
        return await self.log.partitions(self._own(topic))

    async def bounds(self, topic: str, partition: int) -> Bounds:
        return await self.log.bounds(self._own(topic), partition)

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        return await self.log.publish(self._own(topic), partition, records)

    def read(self, topic: str, partition: int, after: int) -> Reader:
        return self.log.read(self._own(topic), partition, after)

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        await self.log.mark(subscription, self._own(topic), partition, position)

    async def unmark(self, subscription: str, topic: str) -> None:
        await self.log.unmark(subscription, self._own(topic))

    @property
    def log(self) -> Transport:
        """The adapter, while it is open."""
        assert self._log is not None, "open it with `async with`"
        return self._log

    def _own(self, topic: str) -> str:
        return f"{self._name}.{topic}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    async def __aenter__(self) -> Self:
        log = self._make()
        await log.__aenter__()
        self._log = log
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is not None:
            log, self._log = self._log, None
            await log.__aexit__(kind, error, trace)


class Observed(OwnTopics):
    """The connection of the test itself: it sees what the services publish over theirs, and can be in their way.

    one_process: an adapter that only one object may have open; the services then share this one's.
    """

    def __init__(self, make: Callable[[], Transport], name: str, observe: Observe, *, one_process: bool) -> None:
        super().__init__(make, name)
        self.one_process = one_process
        self._observe = observe
        self._appended: dict[tuple[str, int], int] = {}
        self._ends: dict[tuple[str, int], tuple[int, Bounds]] = {}

    def connection(self) -> OwnTopics:
        """For one runtime."""
        return _OfService(self)

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        return await self.publish_over(self, topic, partition, records)

    async def publish_over(self, own: OwnTopics, topic: str, partition: int, records: Sequence[Record]) -> int:
        """Publish over another connection, and take note of it."""
        place = (topic, partition)
        try:
            durable = await own.log.publish(self._own(topic), partition, records)
        finally:
            self._appended[place] = self._appended.get(place, 0) + 1
        self._observe(topic, records[:durable])
        return durable

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Asked again and again by whoever waits for rest: the engine is asked only after something was published."""
        place = (topic, partition)
        appended = self._appended.get(place, 0)
        known = self._ends.get(place)
        if known is None or known[0] != appended:
            known = self._ends[place] = appended, await super().bounds(topic, partition)
        return known[1]


class _OfService(OwnTopics):
    """The connection of one runtime."""

    def __init__(self, test: Observed) -> None:
        super().__init__(test._make, test._name)
        self._test = test

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        in_the_way = vars(self._test).get("publish")  # what a test has put there
        if in_the_way is not None:
            return await in_the_way(topic, partition, records)
        return await self._test.publish_over(self, topic, partition, records)

    async def __aenter__(self) -> Self:
        if self._test.one_process:
            self._log = self._test.log
            return self
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._test.one_process:
            self._log = None
            return
        await super().__aexit__(kind, error, trace)
