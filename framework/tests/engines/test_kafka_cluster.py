"""A cluster of three Kafka brokers loses the leader of a partition while records are published and read."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # pyright: ignore[reportPrivateImportUsage] - this is where its documentation has them
from millstream.clock import SystemClock
from millstream.errors import TransportUnavailable
from millstream.message import Record
from millstream.ports.instrumentation import Silent
from millstream.runtime.adapters import AdapterContext
from millstream.testing.conformance.transport_case import everything
from millstream.testing.engines.kafka import KafkaCluster, KafkaServer
from millstream.transports.kafka import KafkaTransport, open_transport

_log = logging.getLogger(__name__)
KEYS, BATCH, PARTITIONS = 20, 100, 3
AFTER_ROUNDS = 10
"""How many publishes of each partition must be confirmed after what happened."""
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with KafkaCluster(tmp_path_factory.mktemp("kafka-cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(nodes: KafkaCluster) -> KafkaCluster:
    """Complete, whatever the test before has killed."""
    nodes.start()
    return nodes


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return f"{request.node.originalname}-{random.randrange(10**6)}"[-200:]


@pytest.fixture
def make(cluster: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., KafkaTransport]:
    def make(options: str = "") -> KafkaTransport:
        context = AdapterContext(tmp_path_factory.getbasetemp(), SystemClock(), Silent(), keep_seconds=0)
        return open_transport(cluster.url + options, context)

    return make


@dataclass
class Load:
    """One publisher and one reader of a partition, as relay and consumer are: after an error they begin again where they were."""

    log: KafkaTransport
    topic: str
    partition: int
    stop: asyncio.Event
    confirmed: int = 0
    confirmed_at: list[float] = field(default_factory=list[float])
    outages: int = 0
    found: list[Record] = field(default_factory=list[Record])
    seen: set[int] = field(default_factory=set[int])

    async def publish(self) -> None:
        while not self.stop.is_set():
            numbers = range(self.confirmed, self.confirmed + BATCH)
            records = [Record(b"%d" % number, f"key-{number % KEYS}") for number in numbers]
            try:
                self.confirmed += await self.log.publish(self.topic, self.partition, records)
                self.confirmed_at.append(time.monotonic())
            except TransportUnavailable:
                self.outages += 1
            await asyncio.sleep(0.03)  # two cores carry three brokers

    async def read(self) -> None:
        """Until everything that was confirmed has come."""
        while not (self.stop.is_set() and self.came()):
            reader = self.log.read(self.topic, self.partition, self.found[-1].position if self.found else 0)
            try:
                while not (self.stop.is_set() and self.came()):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            records = await reader.next(500)
                            self.found += records
                            self.seen.update(int(record.value) for record in records)
            except TransportUnavailable:
                await asyncio.sleep(0.05)
            finally:
                await reader.aclose()

    def came(self) -> bool:
        return len(self.seen) >= self.confirmed

    def longest_pause_seconds(self) -> float:
        return max(after - before for before, after in pairwise(self.confirmed_at))

    def assert_nothing_is_lost_or_swapped(self, stored: list[Record]) -> None:
        first = list(dict.fromkeys(int(record.value) for record in stored))
        assert set(range(self.confirmed)) <= set(first)
        for key in range(KEYS):
            numbers = [number for number in first if number % KEYS == key]
            assert numbers == sorted(numbers)
        positions = [record.position for record in self.found]
        assert positions == sorted(set(positions))
        assert self.found == stored[: len(self.found)], "a reader saw what is not in the log"


@asynccontextmanager
async def under_load(log: KafkaTransport, topic: str) -> AsyncIterator[list[Load]]:
    """Runs the body under load, then waits for the readers and compares with what is stored."""
    await log.provision(topic, PARTITIONS)
    stop = asyncio.Event()
    loads = [Load(log, topic, partition, stop) for partition in range(PARTITIONS)]
    started = time.monotonic()
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        for load in loads:
            group.create_task(load.publish())
            group.create_task(load.read())
        await rounds(loads, AFTER_ROUNDS)
        yield loads
        stop.set()
    for load in loads:
        stored = await everything(log, topic, load.partition)
        load.assert_nothing_is_lost_or_swapped(stored)
        _log.info(
            "partition %d: %d confirmed in %.1f s, longest pause %.1f s, %d publishes failed, %d repeats",
            load.partition,
            load.confirmed,
            time.monotonic() - started,
            load.longest_pause_seconds(),
            load.outages,
            len(stored) - len({record.value for record in stored}),
        )


async def rounds(loads: list[Load], count: int) -> None:
    """Until each partition has confirmed so many more publishes."""
    wanted = [len(load.confirmed_at) + count for load in loads]
    await until(lambda: all(len(load.confirmed_at) >= rounds for load, rounds in zip(loads, wanted, strict=True)))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - it changes in other processes too
            await asyncio.sleep(0.02)


async def leader_of(cluster: KafkaCluster, topic: str, other_than: KafkaServer | None = None) -> KafkaServer:
    """Who leads partition 0."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            leader = await asyncio.to_thread(cluster.leader_of, topic, 0)
            if leader is not None and leader is not other_than:
                return leader
            await asyncio.sleep(0.1)


async def complete(cluster: KafkaCluster, topic: str) -> None:
    """Until each partition is on all nodes again."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        for partition in range(PARTITIONS):
            while await asyncio.to_thread(cluster.in_sync, topic, partition) < len(cluster.nodes):  # noqa: ASYNC110 - it changes in other processes
                await asyncio.sleep(0.1)


async def test_a_killed_leader_takes_nothing_along_that_was_confirmed(
    cluster: KafkaCluster, make: Callable[..., KafkaTransport], topic: str
) -> None:
    async with make() as log, under_load(log, topic) as loads:
        leader = await leader_of(cluster, topic)
        leader.kill()
        await leader_of(cluster, topic, other_than=leader)
        await rounds(loads, AFTER_ROUNDS)


async def test_a_leader_that_stalls_and_comes_back_changes_no_order(
    cluster: KafkaCluster, make: Callable[..., KafkaTransport], topic: str
) -> None:
    """With a time limit below what an election takes: producers are given up, and what they sent is published again."""
    async with make("&timeout=1s") as log, under_load(log, topic) as loads:
        leader = await leader_of(cluster, topic)
        leader.pause()
        try:
            await rounds(loads, AFTER_ROUNDS)  # the others replace it
        finally:
            leader.resume()
        await complete(cluster, topic)
        await rounds(loads, AFTER_ROUNDS)


async def test_a_cluster_is_durable_until_a_setting_is_weakened(
    cluster: KafkaCluster, make: Callable[..., KafkaTransport], topic: str
) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})

    async def alter(name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result, 10)

    async def becomes(why_not: str) -> None:
        """Each broker hears of a change when it does."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (found := await log.durability()).why_not != why_not:
                assert found.power_loss is not bool(found.why_not)
                await asyncio.sleep(0.02)

    weak = f"topic {topic}: a broker confirms from its page cache, which a power cut empties; "
    async with make() as log:
        await becomes("")
        await log.provision(topic, 1)
        await becomes("")
        await alter("min.insync.replicas", "1")
        await becomes(f"{weak}min.insync.replicas is 1, it needs 2")
        await alter("unclean.leader.election.enable", "true")
        await becomes(
            f"{weak}min.insync.replicas is 1, it needs 2; unclean.leader.election.enable is true, it needs false"
        )
        await alter("min.insync.replicas", "2")
        await alter("unclean.leader.election.enable", "false")
        await becomes("")
