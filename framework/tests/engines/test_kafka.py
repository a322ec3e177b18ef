"""The Kafka log when its broker dies or stalls, when retention passes a reader, and when others use the same topics."""

from __future__ import annotations

import asyncio
import os
import random
import re
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType  # pyright: ignore[reportPrivateImportUsage] - this is where its documentation has them
from millstream.errors import Misconfigured, PositionGone, RecordRefused, TransportUnavailable
from millstream.message import Record
from millstream.ports.transport import Bounds, Reader, Transport
from millstream.testing.conformance.transport_case import everything, keyed, take, values, within
from millstream.testing.conformance.transport_publishing import first_occurrences
from millstream.testing.engines.kafka import KafkaServer
from millstream.testing.engines.shared import shared_engine
from millstream.transports.kafka import Connection, KafkaOptions, KafkaTransport
from millstream.transports.kafka.fetcher import AHEAD_RECORDS, STEP_RECORDS
from millstream.transports.kafka.sender import Sender

BOUND_SECONDS = 12.0
"""A call that cannot succeed ends within this time: its own limit of two seconds, and room for a busy machine."""
RECOVERY_SECONDS = 40.0


@pytest.fixture
def broker(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> KafkaServer:
    """Shared with all tests of this process. Some kill or stop it here; the next one finds it running."""
    return shared_engine(pytestconfig, KafkaServer, lambda: KafkaServer(tmp_path_factory.mktemp("kafka")))


@pytest.fixture
async def log(broker: KafkaServer, topic: str) -> AsyncIterator[KafkaTransport]:
    async with log_on(broker) as log:
        await log.provision(topic, 2)
        yield log


@pytest.fixture
def admin(broker: KafkaServer) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}-{random.randrange(10**6)}"


def log_on(server: KafkaServer, **options: object) -> KafkaTransport:
    return KafkaTransport(Connection(server.bootstrap), KafkaOptions(**{"fetch_wait_ms": 10, **options}))


async def until(condition: Callable[[], bool], seconds: float = RECOVERY_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it changes in other threads too
            await asyncio.sleep(0.002)


async def publish_all(log: Transport, topic: str, total: int, step: int = 90) -> None:
    """As a relay does: what is not confirmed is published again."""
    done = 0
    while done < total:
        numbers = range(done, min(done + step, total))
        try:
            done += await log.publish(
                topic, 0, [Record(str(number).encode(), f"key-{number % 7}") for number in numbers]
            )
        except TransportUnavailable:
            await asyncio.sleep(0.05)


async def read_until(log: Transport, topic: str, total: int, found: list[Record]) -> None:
    """As a consumer does: after an outage a new reader goes on behind the last record."""
    seen: set[bytes] = set()
    while len(seen) < total:
        reader = log.read(topic, 0, found[-1].position if found else 0)
        try:
            while len(seen) < total:
                records = await reader.next(200)
                found += records
                seen.update(record.value for record in records)
        except TransportUnavailable:
            await asyncio.sleep(0.05)
        finally:
            await reader.aclose()


def assert_nothing_is_lost_or_swapped(found: list[Record], total: int) -> None:
    assert [record.position for record in found] == sorted({record.position for record in found})
    for key in range(7):
        own = [record for record in found if record.key == f"key-{key}"]
        assert first_occurrences(own) == [str(number) for number in range(key, total, 7)]


# -- the broker dies or stalls ------------------------------------------------------------------------------------------


async def test_publisher_and_reader_carry_on_after_the_broker_was_killed(broker: KafkaServer, topic: str) -> None:
    total, found = 6_000, list[Record]()
    async with log_on(broker) as log:
        await log.provision(topic, 1)
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(publish_all(log, topic, total))
            reading = group.create_task(read_until(log, topic, total, found))
            await until(lambda: len(found) >= total // 10)
            broker.kill()
            await asyncio.to_thread(broker.start)  # has a time limit of its own
            await within(asyncio.wait([publishing, reading]), RECOVERY_SECONDS)
        assert_nothing_is_lost_or_swapped(found, total)
        assert found == await everything(log, topic, 0)


async def test_a_stopped_broker_ends_calls_in_time_and_then_everything_goes_on(broker: KafkaServer, topic: str) -> None:
    total, found = 4_000, list[Record]()
    loop = asyncio.get_running_loop()
    async with log_on(broker, wait_seconds=2.0) as log, asyncio.TaskGroup() as group:
        await log.provision(topic, 2)
        reading = group.create_task(read_until(log, topic, total, found))
        await publish_all(log, topic, 100)
        waiting = loop.create_task(log.read(topic, 1, 0).next(1))
        await until(lambda: len(found) >= 100)
        broker.pause()
        try:
            calls = [
                log.publish(topic, 1, keyed("k", *range(500))),
                log.bounds(topic, 0),
                log.partitions(topic),
                log.provision(f"{topic}-other", 1),
                log.read(topic, 0, 0).next(1),
                waiting,  # with nothing to read, and yet it does not wait for an absent broker for ever
            ]
            for error in await within(asyncio.gather(*calls, return_exceptions=True), BOUND_SECONDS):
                assert isinstance(error, TransportUnavailable)
                assert re.search(r"127.*(no confirmation in time|no answer|imed out)", str(error))
            publishing = group.create_task(publish_all(log, topic, total))
            await asyncio.wait([publishing], timeout=3)  # through at least one producer that is given up
            assert not publishing.done()
        finally:
            broker.resume()
        await within(publishing, RECOVERY_SECONDS)
        await within(reading, RECOVERY_SECONDS)
        assert_nothing_is_lost_or_swapped(found, total)


async def test_a_log_that_is_opened_while_its_broker_is_stopped_works_once_it_is_back(
    broker: KafkaServer, log: KafkaTransport, topic: str
) -> None:
    broker.pause()
    try:
        async with log_on(broker, wait_seconds=1.0) as late, asyncio.TaskGroup() as group:
            with pytest.raises(TransportUnavailable):
                await within(late.publish(topic, 0, keyed("key-0", 0)), BOUND_SECONDS)
            publishing = group.create_task(publish_all(late, topic, 500))
            await asyncio.wait([publishing], timeout=0.5)
            broker.resume()
            await within(publishing, RECOVERY_SECONDS)
    finally:
        broker.resume()
    assert_nothing_is_lost_or_swapped(await everything(log, topic, 0), 500)


async def test_closing_while_the_broker_is_stopped_ends_in_time(broker: KafkaServer, topic: str) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with log_on(broker) as log:
            await log.provision(topic, 1)
            await log.publish(topic, 0, keyed("k", 1))
            reader = log.read(topic, 0, 0)
            await take(reader, 1)
            broker.pause()
            calls = [loop.create_task(log.publish(topic, 0, keyed("k", number))) for number in range(20)]
            waiting = loop.create_task(reader.next(1))
            await asyncio.sleep(0.05)
            started = time.monotonic()
        assert time.monotonic() - started < BOUND_SECONDS
        await within(asyncio.wait([*calls, waiting]))
        assert all(isinstance(call.exception(), TransportUnavailable) for call in [*calls, waiting])
    finally:
        broker.resume()
    await until(lambda: not any(thread.name.startswith("millstream-kafka") for thread in threading.enumerate()))


async def test_a_broker_that_is_not_there_is_an_outage_and_no_hang(topic: str) -> None:
    async with KafkaTransport(Connection("127.0.0.1:1"), KafkaOptions(wait_seconds=1.0)) as log:
        for call in (log.publish(topic, 0, keyed("k", 1)), log.partitions(topic), log.read(topic, 0, 0).next(1)):
            with pytest.raises(TransportUnavailable, match=r"127\.0\.0\.1:1"):
                await within(call, BOUND_SECONDS)


# -- publishing ---------------------------------------------------------------------------------------------------------


async def test_a_record_that_only_the_broker_refuses_is_found_and_stops_what_follows(
    log: KafkaTransport, admin: AdminClient, topic: str
) -> None:
    await log.publish(topic, 0, keyed("a", 0))
    await limit(admin, topic, 20_000)
    batch = [*keyed("a", 1), *keyed("b", 1), Record(bytes(30_000), "a"), *keyed("b", 2), *keyed("a", 3)]
    with pytest.raises(RecordRefused) as refused:
        await log.publish(topic, 0, batch)
    assert refused.value.index == 2
    assert values(await everything(log, topic, 0)) == ["a:0", "a:1", "b:1"]
    assert await log.publish(topic, 0, keyed("b", 2)) == 1


async def test_a_report_that_is_complete_is_not_overwritten_by_the_end_of_its_producer() -> None:
    """Both may reach the event loop in one turn, which the reason of a refusal must outlive."""
    sender = Sender(Connection("127.0.0.1:1"), 1_000)
    reports = sender._hand_over(("topic", 0), keyed("k", 1))
    assert reports is not None
    reports.report(0, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), None)
    asyncio.get_running_loop().call_soon_threadsafe(sender._abandon)
    await within(asyncio.wait([reports.done]))
    assert reports.error is not None
    assert reports.error.code() == KafkaError.MSG_SIZE_TOO_LARGE
    await sender.aclose(5.0)


async def test_many_small_records_are_not_refused_together(log: KafkaTransport, admin: AdminClient, topic: str) -> None:
    """A broker judges whole batches: with a limit below one batch every record still goes through by itself."""
    await log.publish(topic, 0, keyed("k", 0))
    await limit(admin, topic, 20_000)
    assert await log.publish(topic, 0, [Record(bytes(1_000), "k") for _ in range(50)]) == 50
    assert len(await everything(log, topic, 0)) == 51


async def test_a_topic_that_takes_less_than_declared_is_misconfigured(
    broker: KafkaServer, log: KafkaTransport, admin: AdminClient, topic: str
) -> None:
    await limit(admin, topic, 20_000)
    async with log_on(broker) as other:
        with pytest.raises(Misconfigured, match=r"max\.message\.bytes to 1002048"):
            await other.provision(topic, 2)
        with pytest.raises(RecordRefused):
            await other.publish(topic, 0, [Record(bytes(20_000), "k")])
    async with log_on(broker, largest_record_bytes=10_000) as other:
        await other.provision(topic, 2)


async def limit(admin: AdminClient, topic: str, largest: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(largest), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result, 10)


async def test_a_zombie_beside_its_successor_changes_no_order(
    broker: KafkaServer, log: KafkaTransport, topic: str
) -> None:
    async with log_on(broker) as zombie, asyncio.TaskGroup() as group:
        group.create_task(publish_all(log, topic, 3_000, step=70))
        group.create_task(publish_all(zombie, topic, 3_000, step=110))
    found = await everything(log, topic, 0)
    assert len(found) == 6_000
    assert_nothing_is_lost_or_swapped(found, 3_000)


async def test_a_buffer_that_is_full_is_waited_for(log: KafkaTransport, topic: str) -> None:
    large = [Record(bytes([number % 256]) * 900_000, "k") for number in range(45)]
    async with asyncio.TaskGroup() as group:
        publishing = [group.create_task(log.publish(topic, 0, large)) for _ in range(2)]
    assert [task.result() for task in publishing] == [45, 45]
    found = await everything(log, topic, 0)
    assert [zlib.crc32(record.value) for record in found] == [zlib.crc32(record.value) for record in large * 2]


# -- reading ------------------------------------------------------------------------------------------------------------


async def test_a_slow_reader_holds_a_bounded_part_of_the_log_and_the_others_go_on(
    log: KafkaTransport, topic: str
) -> None:
    total = AHEAD_RECORDS * 4
    for start in range(0, total, 2_000):
        await log.publish(topic, 0, [Record(b"%d" % number, "k") for number in range(start, start + 2_000)])
    slow = log.read(topic, 0, 0)
    found = await take(slow, 1)
    await log.publish(topic, 1, keyed("other", *range(10)))
    other = log.read(topic, 1, 0)
    assert len(await take(other, 10)) == 10
    feed = log._fetchers[0].places[topic, 0]
    await until(lambda: not feed.assigned)
    assert feed.came_records < AHEAD_RECORDS + STEP_RECORDS + 1
    found += await take(slow, total - 1, limit=333)
    assert [record.value for record in found] == [b"%d" % number for number in range(total)]
    await slow.aclose()
    await other.aclose()


async def test_readers_that_come_and_go_never_get_each_others_records(log: KafkaTransport, topic: str) -> None:
    """They share a consumer: what it fetched for one reader is never handed to the next one at another position."""
    total, chance = 3_000, random.Random(4)
    await log.publish(topic, 0, keyed("k", *range(total)))
    for _ in range(60):
        after = chance.randrange(total - 600)
        reader = log.read(topic, 0, after)
        count = chance.choice([1, 10, 300, 600])
        found = await take(reader, count, limit=chance.choice([1, 50, 500]) if count < 100 else 500)
        assert [record.position for record in found] == list(range(after + 1, after + 1 + count))
        assert values(found) == [f"k:{number}" for number in range(after, after + count)]
        await reader.aclose()


async def test_sixty_readers_share_three_consumers(log: KafkaTransport, topic: str) -> None:
    await log.provision(f"{topic}-wide", 20)
    for partition in range(20):
        await log.publish(f"{topic}-wide", partition, keyed(f"p{partition}", *range(5)))
    before = threads()
    readers = [(partition, log.read(f"{topic}-wide", partition, 0)) for partition in range(20) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        taking = [(partition, group.create_task(take(reader, 5))) for partition, reader in readers]
    for partition, task in taking:
        assert values(task.result()) == [f"p{partition}:{number}" for number in range(5)]
    assert threads() - before <= 3 * 7
    for _, reader in readers:
        await reader.aclose()


def threads() -> int:
    """Of this process, the driver's own included."""
    return len(os.listdir("/proc/self/task"))


# -- positions that are gone --------------------------------------------------------------------------------------------


async def test_what_retention_removed_is_an_error_that_names_where_to_go_on(
    log: KafkaTransport, admin: AdminClient, topic: str
) -> None:
    await log.publish(topic, 0, keyed("k", *range(10)))
    await asyncio.to_thread(
        lambda: [future.result(10) for future in admin.delete_records([TopicPartition(topic, 0, 6)]).values()]
    )
    assert await log.bounds(topic, 0) == Bounds(earliest=6, latest=10)
    for after in (0, 5):
        reader = log.read(topic, 0, after)
        with pytest.raises(PositionGone) as gone:
            await within(reader.next(5))
        assert (gone.value.position, gone.value.earliest) == (after, 6)
        await reader.aclose()
    assert values(await everything(log, topic, 0)) == ["k:6", "k:7", "k:8", "k:9"]


async def test_a_reader_of_a_topic_that_was_put_back_gets_an_error(
    log: KafkaTransport, admin: AdminClient, topic: str
) -> None:
    await log.publish(topic, 0, keyed("k", *range(10)))
    reader = log.read(topic, 0, 0)
    await take(reader, 10)
    waiting = asyncio.get_running_loop().create_task(reader.next(5))
    await asyncio.to_thread(admin.delete_topics([topic])[topic].result, 10)
    with pytest.raises(Misconfigured, match="not provisioned"):
        await within(waiting, RECOVERY_SECONDS)
    with pytest.raises(Misconfigured, match="not provisioned"):
        await within(log.read(topic, 0, 10).next(5))
    await log.provision(topic, 2)
    with pytest.raises(PositionGone) as gone:
        await within(went_on(reader), RECOVERY_SECONDS)
    assert (gone.value.position, gone.value.earliest) == (10, 0)
    await reader.aclose()


async def went_on(reader: Reader) -> Sequence[Record]:
    while True:
        try:
            return await reader.next(5)
        except TransportUnavailable:
            await asyncio.sleep(0.05)


# -- what operators see -------------------------------------------------------------------------------------------------


async def test_marks_show_in_the_tools_of_kafka_until_a_subscription_is_gone(
    log: KafkaTransport, admin: AdminClient, topic: str
) -> None:
    group = f"billing/on-{topic}"
    await log.publish(topic, 0, keyed("k", *range(10)))
    await log.mark(group, topic, 0, 4)
    await log.mark(group, topic, 0, 7)
    await log._marks.commit()
    assert await offsets(admin, group, topic) == [7]
    await log.mark(group, topic, 0, 8)
    await log.unmark(group, topic)
    await log._marks.commit()
    assert await offsets(admin, group, topic) == [-1001]
    await log.unmark("never/marked", topic)


async def test_closing_commits_the_last_marks(broker: KafkaServer, admin: AdminClient, topic: str) -> None:
    async with log_on(broker) as log:
        await log.provision(topic, 1)
        await log.mark(topic, topic, 0, 0)
    assert await offsets(admin, topic, topic) == [0]


async def offsets(admin: AdminClient, group: str, topic: str) -> list[int]:
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0)])
    found = await asyncio.to_thread(admin.list_consumer_group_offsets([asked])[group].result, 10)
    return [place.offset for place in found.topic_partitions]


async def test_a_broker_alone_is_too_weak_unless_it_writes_through(broker: KafkaServer, topic: str) -> None:
    async with log_on(broker) as log:
        weak = await log.durability()
        assert (weak.process_crash, weak.power_loss) == (True, False)
        for part in ("page cache", "replication factor is 1, it needs 3", "min.insync.replicas is 1, it needs 2"):
            assert part in weak.why_not
    async with log_on(broker, flush=True) as log:
        assert (await log.durability()).power_loss
        await log.provision(topic, 1)
        strong = await log.durability()
        assert (strong.power_loss, strong.why_not) == (True, "")
        assert await log.publish(topic, 0, keyed("k", 1, 2)) == 2


async def test_what_a_topic_is_created_with(broker: KafkaServer, admin: AdminClient, topic: str) -> None:
    async with log_on(broker, keep_seconds=3600.0, largest_record_bytes=5_000_000) as log:
        await log.provision(topic, 3)
        assert await log.publish(topic, 0, [Record(bytes(5_000_000), "k" * 1024)]) == 1
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = await asyncio.to_thread(admin.describe_configs([resource])[resource].result, 10)
    settings = {name: entry.value for name, entry in found.items()}
    assert settings["retention.ms"] == "3600000"
    assert settings["cleanup.policy"] == "delete"
    assert settings["message.timestamp.type"] == "LogAppendTime"
    assert settings["unclean.leader.election.enable"] == "false"


async def test_more_copies_than_brokers_is_misconfigured(broker: KafkaServer, topic: str) -> None:
    async with log_on(broker, replication=3) as log:
        with pytest.raises(Misconfigured, match="INVALID_REPLICATION_FACTOR"):
            await log.provision(topic, 1)


async def test_a_topic_that_somebody_else_created_is_used_as_it_is(
    log: KafkaTransport, admin: AdminClient, topic: str
) -> None:
    await asyncio.to_thread(admin.create_topics([NewTopic(f"{topic}-foreign", 5, 1)])[f"{topic}-foreign"].result, 10)
    await log.provision(f"{topic}-foreign", 5)
    with pytest.raises(Misconfigured, match="has 5 partitions, not 4"):
        await log.provision(f"{topic}-foreign", 4)


async def test_credentials_open_the_door_and_wrong_ones_are_not_shown(broker: KafkaServer, topic: str) -> None:
    async with KafkaTransport(Connection(broker.guarded, broker.user, broker.password)) as log:
        await log.provision(topic, 1)
        assert await log.publish(topic, 0, keyed("k", 1)) == 1
        assert values(await everything(log, topic, 0)) == ["k:1"]
    wrong = Connection(broker.guarded, broker.user, "wr0ng")
    assert "wr0ng" not in repr(wrong)
    async with KafkaTransport(wrong, KafkaOptions(wait_seconds=1.0)) as log:
        for call in (log.provision(topic, 1), log.read(topic, 0, 0).next(1), log.publish(topic, 0, keyed("k", 1))):
            with pytest.raises((TransportUnavailable, Misconfigured)) as refused:
                await within(call, BOUND_SECONDS)
            assert "wr0ng" not in str(refused.value)
