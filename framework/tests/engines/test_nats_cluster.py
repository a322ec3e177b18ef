"""A cluster of three NATS servers loses the leader of a stream while records are published and read."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from millstream.clock import SystemClock
from millstream.errors import TransportUnavailable
from millstream.message import Record
from millstream.ports.instrumentation import Silent
from millstream.runtime.adapters import AdapterContext
from millstream.testing.conformance.transport_case import everything
from millstream.testing.engines.nats import NatsCluster
from millstream.transports.nats import NatsTransport, open_transport

_log = logging.getLogger(__name__)
KEYS = 20
BATCH = 100
RECOVERY_SECONDS = 12.0
"""What an election, a new connection and a new consumer may take together, on a busy machine."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    with NatsCluster(tmp_path) as cluster:
        yield cluster


def make(cluster: NatsCluster, tmp_path: Path) -> NatsTransport:
    return open_transport(cluster.url, AdapterContext(tmp_path, SystemClock(), Silent(), keep_seconds=0))


class Publishing:
    """Publishes numbers, in order, again and again until they are confirmed."""

    def __init__(self, log: NatsTransport) -> None:
        self.confirmed = 0
        self._log = log

    async def until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            numbers = range(self.confirmed, self.confirmed + BATCH)
            records = [Record(str(number).encode(), f"key-{number % KEYS}") for number in numbers]
            try:
                self.confirmed += await self._log.publish("orders", 0, records)
            except TransportUnavailable:
                await asyncio.sleep(0.05)


class Reading:
    """Reads, and opens a new reader behind the last record after an error."""

    def __init__(self, log: NatsTransport) -> None:
        self.found: list[Record] = []
        self._log = log

    async def until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            reader = self._log.read("orders", 0, self.found[-1].position if self.found else 0)
            try:
                while not stop.is_set():
                    async with asyncio.timeout(0.5):
                        self.found += await reader.next(500)
            except TimeoutError:
                pass
            except TransportUnavailable:
                await asyncio.sleep(0.05)
            finally:
                await reader.aclose()


async def test_a_killed_leader_takes_nothing_along_that_was_confirmed(cluster: NatsCluster, tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with make(cluster, tmp_path) as log:
        await log.provision("orders", 1)
        durability = await log.durability()
        assert durability.power_loss, durability.why_not
        publishing, reading = Publishing(log), Reading(log)
        async with asyncio.TaskGroup() as group:
            group.create_task(publishing.until(stop))
            group.create_task(reading.until(stop))
            await condition(lambda: publishing.confirmed >= 1_000 and len(reading.found) >= 500)

            leader = cluster.leader_of("orders")
            assert leader is not None
            leader.kill()
            killed_at, confirmed_before = time.monotonic(), publishing.confirmed
            await condition(lambda: publishing.confirmed >= confirmed_before + 3 * BATCH)
            published_after = time.monotonic() - killed_at
            await condition(lambda: any(int(record.value) >= confirmed_before + 2 * BATCH for record in reading.found))
            read_after = time.monotonic() - killed_at
            _log.info("published again after %.1f s, read again after %.1f s", published_after, read_after)

            leader.start()
            confirmed_before = publishing.confirmed
            await condition(lambda: publishing.confirmed >= confirmed_before + 3 * BATCH)
            stop.set()
        stored = await everything(log, "orders", 0)
    assert_in_order(stored, publishing.confirmed)
    assert published_after < RECOVERY_SECONDS
    assert read_after < RECOVERY_SECONDS
    positions = [record.position for record in reading.found]
    assert positions == sorted(set(positions))
    assert reading.found == stored[: len(reading.found)]


def assert_in_order(records: list[Record], confirmed: int) -> None:
    """Every confirmed number is there, and the first occurrences of each key come in its order."""
    first = list(dict.fromkeys(int(record.value) for record in records))
    assert set(range(confirmed)) <= set(first)
    for key in range(KEYS):
        numbers = [number for number in first if number % KEYS == key]
        assert numbers == sorted(numbers)


async def condition(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what it looks at is changed by whatever came from a server
            await asyncio.sleep(0.02)
