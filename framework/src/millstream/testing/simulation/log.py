"""A log behind a network: the transport port with the misbehaviour of real engines.

Records, positions and retention are those of the memory transport, which plays the engine and outlives every process.
Each process has a client of its own. As the real engines were seen to do, a publish is confirmed in part, or done without
anybody learning it, or done long after its caller gave up, or done twice by a client library that reconnects; never is a
later record of a key taken while an earlier one of the same publish is not (rule L2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar, final

from ...errors import RecordRefused, TransportUnavailable
from ...message import Record
from ...ports.transport import Bounds, Durability, Reader, TransportCapabilities
from ...transports.memory import MemoryTransport
from .network import Lost, Network

__all__ = ["Refuses", "SimulatedTransport"]

R = TypeVar("R")
Refuses = Callable[[str, Record], str | None]
"""Why the engine never takes a record of a topic; None if it does."""
POLL_SECONDS = 0.002
"""The longest until a waiting reader learns of new records."""


def _takes_all(_topic: str, _record: Record) -> str | None:
    return None


@final
class SimulatedTransport:
    """One process's client of the log. `engine` must be open; it is shared by all clients."""

    def __init__(self, engine: MemoryTransport, network: Network, refuses: Refuses = _takes_all) -> None:
        self.engine = engine
        self.network = network
        self._refuses = refuses
        self._open = False
        self._closed: asyncio.Future[None] | None = None

    @property
    def capabilities(self) -> TransportCapabilities:
        return TransportCapabilities(
            name="simulated",
            survives_restart=True,
            several_processes=True,
            retention_by_position=True,
            largest_record_bytes=self.engine.capabilities.largest_record_bytes,
            batch_is_atomic=False,
        )

    async def durability(self) -> Durability:
        return Durability(process_crash=True, power_loss=True)

    async def provision(self, topic: str, partitions: int) -> None:
        await self._call(lambda: self.engine.provision(topic, partitions))

    async def partitions(self, topic: str) -> int | None:
        return await self._call(lambda: self.engine.partitions(topic))

    async def bounds(self, topic: str, partition: int) -> Bounds:
        return await self._call(lambda: self.engine.bounds(topic, partition))

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        records = tuple(records)
        taken = len(records)
        if taken > 1 and self.network.drawn(self.network.faults.partial, f"{topic}/{partition}: partly taken"):
            taken = self.network.below(taken)

        async def append() -> int:
            for index, record in enumerate(records[:taken]):
                reason = self._refuses(topic, record)
                if reason is not None:
                    await self.engine.publish(topic, partition, records[:index])
                    raise RecordRefused(index, reason)
            return await self.engine.publish(topic, partition, records[:taken])

        return await self._call(append)

    def read(self, topic: str, partition: int, after: int) -> Reader:
        return _SimulatedReader(self, topic, partition, after)

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        # A hint: as a real client does, it is sent and forgotten, and one that is lost is made good by the next.
        if not self.network.drawn(self.network.faults.lost_request, f"lost mark of {subscription}"):
            await self.engine.mark(subscription, topic, partition, position)

    async def unmark(self, subscription: str, topic: str) -> None:
        await self.engine.unmark(subscription, topic)

    async def __aenter__(self) -> Self:
        self._open = True
        self._closed = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def check_open(self) -> None:
        """Raises:
        TransportUnavailable: this client is closed.
        """
        if not self._open:
            raise TransportUnavailable("the simulated log is closed")

    async def _call(self, act: Callable[[], Awaitable[R]]) -> R:
        self.check_open()
        try:
            return await self.network.call(act)
        except Lost as error:
            raise TransportUnavailable(f"the simulated log: {error}") from error

    async def first(self, what: Awaitable[R]) -> R:
        """What comes of `what`, or TransportUnavailable when this client is closed meanwhile."""
        assert self._closed is not None
        task = asyncio.ensure_future(what)  # noqa: TID251 - joined below, whatever happens
        try:
            await asyncio.wait((task, self._closed), return_when=asyncio.FIRST_COMPLETED)
            self.check_open()
            return task.result()
        finally:
            task.cancel()


@final
class _SimulatedReader:
    def __init__(self, client: SimulatedTransport, topic: str, partition: int, after: int) -> None:
        self._client = client
        self._topic = topic
        self._partition = partition
        self._after = after

    async def next(self, limit: int) -> Sequence[Record]:
        client = self._client
        client.check_open()
        engine, network = client.engine, client.network
        if network.drawn(network.faults.lost_answer, f"{self._topic}/{self._partition}: lost reader"):
            await network.call(_nothing)
            raise TransportUnavailable("the simulated log: the connection of a reader was lost")
        # The engine's own reader waits for records; the way to us takes time.
        found = await client.first(
            engine.read(self._topic, self._partition, self._after).next(1 + network.below(limit) if limit > 1 else 1)
        )
        await asyncio.sleep(network.delay())
        if found:
            self._after = found[-1].position
        return found

    async def aclose(self) -> None: ...


async def _nothing() -> None: ...
