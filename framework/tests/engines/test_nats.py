"""The NATS log when its server dies, stalls, fills up, or is changed under it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from millstream.errors import Misconfigured, PositionGone, RecordRefused, TransportUnavailable
from millstream.message import Record
from millstream.ports.transport import Reader, Transport
from millstream.testing.conformance.transport_case import Make, everything, keyed, take, values, within
from millstream.testing.conformance.transport_publishing import Publishing
from millstream.testing.engines.nats import NatsServer
from millstream.transports.nats import NatsOptions, NatsTransport
from millstream.transports.nats.reader import PREFETCH_RECORDS

IMPATIENT = "1s"
"""The timeout of tests that wait for it to pass."""
BOUND_SECONDS = 10.0
"""A call that cannot succeed ends within this time: the timeout, what comes after it, and room for a busy machine."""
READ_PER_SECOND = 25_000


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that no test kills."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that the test may kill."""
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return request.node.name


def log_on(server: NatsServer, **options: object) -> NatsTransport:
    return NatsTransport([("127.0.0.1", server.port)], options=NatsOptions(**{"keep": 0, "sync": "always", **options}))


class TestPublishingWithoutBatches(Publishing):
    """Rule L2 as an older server has it kept: one unconfirmed record per key."""

    @pytest.fixture
    def make(self, shared: NatsServer) -> Make:
        return lambda: log_on(shared, batches=False)


# -- the server dies or stalls ------------------------------------------------------------------------------------------


async def test_publisher_and_reader_carry_on_after_the_server_was_killed(server: NatsServer, topic: str) -> None:
    total, found = 4_000, list[Record]()

    async def publisher(log: Transport) -> None:
        done = 0
        while done < total:
            records = [
                Record(str(number).encode(), f"key-{number % 7}") for number in range(done, min(done + 90, total))
            ]
            try:
                done += await log.publish(topic, 0, records)
            except TransportUnavailable:
                await asyncio.sleep(0.02)

    async def reader(log: Transport) -> None:
        reader = log.read(topic, 0, 0)
        while len({record.value for record in found}) < total:
            try:
                found.extend(await within(reader.next(200)))
            except TransportUnavailable:
                await asyncio.sleep(0.02)
        await reader.aclose()

    async with log_on(server) as log:
        await log.provision(topic, 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(publisher(log))
            group.create_task(reader(log))
            for seen in (500, 1_500):
                await condition(lambda seen=seen: len(found) > seen)
                server.kill()
                server.start()
        stored = await everything(log, topic, 0, after=0)
    assert found == stored[: len(found)], (
        "what was read is what is stored, without a gap and without a repeat of a position"
    )
    first = list(dict.fromkeys(int(record.value) for record in stored))
    assert sorted(first) == list(range(total))
    for key in range(7):
        numbers = [number for number in first if number % 7 == key]
        assert numbers == sorted(numbers)


async def test_a_stalled_server_ends_a_publish_in_bounded_time(server: NatsServer, topic: str) -> None:
    async with log_on(server, timeout=IMPATIENT) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        server.pause()
        try:
            assert await seconds_until_unavailable(log.publish(topic, 0, keyed("k", *range(2, 50)))) < BOUND_SECONDS
        finally:
            server.resume()
        # The server may yet take what was sent before: a repeat.
        await until_published(log, topic, keyed("k", *range(2, 50)))
        assert list(dict.fromkeys(values(await everything(log, topic, 0)))) == [
            f"k:{number}" for number in range(1, 50)
        ]


async def test_a_reader_of_a_stalled_server_reports_it_and_goes_on_later(server: NatsServer, topic: str) -> None:
    async with log_on(server, timeout=IMPATIENT) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        reader = log.read(topic, 0, 0)
        assert values(await take(reader, 1)) == ["k:1"]
        server.pause()
        try:
            assert await seconds_until_unavailable(reader.next(1)) < BOUND_SECONDS
        finally:
            server.resume()
        await until_published(log, topic, keyed("k", 2))
        assert values(await until_read(reader)) == ["k:2"]
        await reader.aclose()


async def test_while_the_server_is_gone_every_call_says_so_and_the_same_objects_go_on(
    server: NatsServer, topic: str
) -> None:
    async with log_on(server, timeout=IMPATIENT) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        reader = log.read(topic, 0, 0)
        assert values(await take(reader, 1)) == ["k:1"]
        server.stop()
        for call in (
            lambda: log.publish(topic, 0, keyed("k", 2)),
            lambda: reader.next(1),
            lambda: log.bounds(topic, 0),
            lambda: log.partitions("another"),
            lambda: log.mark("s", topic, 0, 1),
        ):
            assert await seconds_until_unavailable(call()) < BOUND_SECONDS
        server.start()
        await until_published(log, topic, keyed("k", 2))
        assert values(await until_read(reader)) == ["k:2"]
        await reader.aclose()


async def test_closing_does_not_wait_for_a_stalled_server(server: NatsServer, topic: str) -> None:
    async with log_on(server, timeout=IMPATIENT) as log:
        await log.provision(topic, 1)
        await log.mark("s", topic, 0, 0)
        await log.mark("s", topic, 0, 1)  # to be written when it closes
        reader = log.read(topic, 0, 0)
        waiting = asyncio.get_running_loop().create_task(reader.next(1))
        publishing = asyncio.get_running_loop().create_task(log.publish(topic, 0, keyed("k", *range(50))))
        await asyncio.sleep(0.05)
        server.pause()
        started = time.monotonic()
    try:
        assert time.monotonic() - started < BOUND_SECONDS
        await within(asyncio.wait([waiting, publishing]))
        # What the server confirmed before it stalled may still have been returned.
        assert (
            waiting.cancelled() or waiting.exception() is None or isinstance(waiting.exception(), TransportUnavailable)
        )
        assert publishing.exception() is None or isinstance(publishing.exception(), TransportUnavailable)
    finally:
        server.resume()


async def test_a_batch_that_arrived_in_part_is_never_seen(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        with socket.create_connection(("127.0.0.1", shared.port)) as dying:
            dying.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
            for number in range(1, 20):
                headers = b"NATS/1.0\r\nNats-Batch-Id:partial\r\nNats-Batch-Sequence:%d\r\n\r\n" % number
                dying.sendall(b"HPUB %s.0 %d %d\r\n%sx\r\n" % (topic.encode(), len(headers), len(headers) + 1, headers))
            dying.sendall(b"PING\r\n")
            answer = dying.makefile("rb")
            assert any(line.startswith(b"PONG") for line in answer), "the server took them all"
        assert await log.publish(topic, 0, keyed("k", *range(20))) == 20
        assert values(await everything(log, topic, 0)) == [f"k:{number}" for number in range(20)]


# -- publishing ---------------------------------------------------------------------------------------------------------


async def test_a_zombie_changes_no_order(shared: NatsServer, topic: str) -> None:
    async def relay(log: Transport, step: int) -> None:
        done = 0
        while done < 300:
            done += await log.publish(topic, 0, keyed("k", *range(done, min(done + step, 300))))

    async with log_on(shared) as log, log_on(shared) as zombie:
        await log.provision(topic, 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(relay(log, 7))
            group.create_task(relay(zombie, 30))
        records = await everything(log, topic, 0)
    assert len(records) == 600
    assert list(dict.fromkeys(values(records))) == [f"k:{number}" for number in range(300)]


async def test_a_publisher_that_gives_up_takes_nobody_along(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 8)
        for turn in range(20):
            publishing = [
                asyncio.get_running_loop().create_task(log.publish(topic, partition, keyed(f"turn-{turn}", *range(30))))
                for partition in range(8)
            ]
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            publishing[turn % 8].cancel()
            await within(asyncio.wait(publishing))
            assert [task.result() for task in publishing if not task.cancelled()] == [30] * 7
        for partition in range(8):
            found = await everything(log, topic, partition)
            assert len(found) % 30 == 0, "what travelled together is stored whole"


@pytest.mark.parametrize("batches", [True, False])
async def test_a_limit_of_the_stream_refuses_one_record_and_keeps_what_stands_before(
    shared: NatsServer, topic: str, batches: bool
) -> None:
    topic = f"refused-{batches}"
    async with log_on(shared, batches=batches) as log:
        await log.provision(topic, 1)
        change(shared, topic, max_msg_size=20_000)
        log.topics.forget(topic)
        batch = [*keyed("a", *range(15)), Record(b"x" * 20_000, "b"), *keyed("a", 15)]
        with pytest.raises(RecordRefused, match="20000") as refused:
            await log.publish(topic, 0, batch)
        assert refused.value.index == 15
        assert values(await everything(log, topic, 0)) == [f"a:{number}" for number in range(15)]


async def test_a_full_stream_refuses_for_now_and_drops_nothing(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        change(shared, topic, max_msgs=20)
        assert await log.publish(topic, 0, keyed("k", *range(20))) == 20
        for batch in (keyed("k", 20), keyed("k", *range(20, 40))):
            with pytest.raises(TransportUnavailable, match="make room"):
                await log.publish(topic, 0, batch)
        assert len(await everything(log, topic, 0)) == 20
        change(shared, topic, max_msgs=100)
        assert await log.publish(topic, 0, keyed("k", *range(20, 40))) == 20
        assert values(await everything(log, topic, 0)) == [f"k:{number}" for number in range(40)]


async def test_a_server_that_lost_its_batches_is_served_singly(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        change(shared, topic, allow_atomic=False)
        await until_published(log, topic, keyed("k", *range(50)))
        assert values(await everything(log, topic, 0)) == [f"k:{number}" for number in range(50)]


async def test_provisioning_again_gives_an_old_topic_batches(shared: NatsServer, topic: str) -> None:
    async with log_on(shared, batches=False) as log:
        await log.provision(topic, 2)
        assert not (await log.topics.get(topic)).atomic
        await log.publish(topic, 0, keyed("k", 1))
    async with log_on(shared) as log:
        await log.provision(topic, 2)
        assert (await log.topics.get(topic)).atomic
        assert values(await everything(log, topic, 0)) == ["k:1"]


async def test_a_larger_server_carries_larger_records_and_one_byte_more_is_refused(tmp_path: Path, topic: str) -> None:
    with NatsServer(tmp_path, max_payload_bytes=4 * 1024 * 1024) as server:
        async with log_on(server) as log:
            largest = log.capabilities.largest_record_bytes
            assert largest > 4_000_000
            await log.provision(topic, 1)
            assert await log.publish(topic, 0, [Record(b"x" * largest, "k")] * 12) == 12
            with pytest.raises(RecordRefused):
                await log.publish(topic, 0, [Record(b"x" * (largest + 1), "k")])
            assert [len(record.value) for record in await everything(log, topic, 0)] == [largest] * 12


async def test_a_key_that_fills_its_header_is_refused_and_no_other(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        value = bytes(log.capabilities.largest_record_bytes)
        assert await log.publish(topic, 0, [Record(value, "é" * 512)]) == 1, (
            "a key of 1 KiB goes with the largest value"
        )
        assert await log.publish(topic, 0, [Record(b"small", "k" * 50_000)]) == 1
        with pytest.raises(RecordRefused, match="key"):
            await log.publish(topic, 0, [Record(b"small", "k" * 65_000)])


# -- reading ------------------------------------------------------------------------------------------------------------


async def test_a_slow_consumer_holds_little_and_loses_nothing(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        count, reader = 3_000, log.read(topic, 0, 0)
        for start in range(0, count, 500):
            await log.publish(topic, 0, [Record(b"%d" % n + b" " * 5_000, "k") for n in range(start, start + 500)])
        found = list(await within(reader.next(1)))
        await asyncio.sleep(0.5)  # what a server would send to somebody who does not limit it
        assert len(reader._buffer) <= PREFETCH_RECORDS  # type: ignore[attr-defined]  # the bound is the reader's own
        assert sum(len(record.value) for record in reader._buffer) < 5 * 1024 * 1024  # type: ignore[attr-defined]  # as above
        found += await take(reader, count - 1, limit=500)
        assert [int(record.value) for record in found] == list(range(count))
        await reader.aclose()


async def test_a_reader_that_slept_longer_than_its_consumer_goes_on(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        reader = log.read(topic, 0, 0)
        await take(reader, 1)
        for consumer in shared.ask(f"$JS.API.CONSUMER.NAMES.{topic}")["consumers"]:
            shared.ask(f"$JS.API.CONSUMER.DELETE.{topic}.{consumer}")
        await log.publish(topic, 0, keyed("k", 2))
        assert values(await take(reader, 1)) == ["k:2"]
        await reader.aclose()


async def test_closed_readers_leave_no_consumer_behind(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        for _ in range(5):
            reader = log.read(topic, 0, 0)
            await take(reader, 1)
            await reader.aclose()
        await condition(lambda: not shared.ask(f"$JS.API.CONSUMER.NAMES.{topic}")["consumers"])


async def test_a_reader_of_one_partition_of_eight_is_fast(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 8)
        batch = [Record(b"x" * 250, f"customer-{number % 100}") for number in range(500)]
        async with asyncio.TaskGroup() as group:
            for partition in list(range(8)) * 8:
                group.create_task(log.publish(topic, partition, batch))
        rates: list[float] = []
        for partition in range(3):
            # Against this process's own time: how much the server gets of a machine that is shared is no property of ours.
            reader, started = log.read(topic, partition, 0), time.process_time()
            await take(reader, 4_000, limit=500)
            rates.append(4_000 / (time.process_time() - started))
            await reader.aclose()
        assert max(rates) >= READ_PER_SECOND


# -- positions that are gone --------------------------------------------------------------------------------------------


async def test_a_waiting_reader_hears_that_retention_passed_it(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log, log_on(shared) as other:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", *range(10)))
        records = await everything(log, topic, 0)
        reader = log.read(topic, 0, records[-1].position)
        waiting = asyncio.get_running_loop().create_task(reader.next(1))
        await condition(lambda: bool(shared.ask(f"$JS.API.CONSUMER.NAMES.{topic}")["consumers"]))
        await log.publish(topic, 0, keyed("k", *range(10, 20)))
        assert values(await within(waiting))[0] == "k:10"
        await reader.aclose()

        behind = log.read(topic, 0, records[2].position)
        behind_waits = log.read(topic, 0, records[2].position)
        await take(behind, 1, limit=1)
        await other.mark("everybody", topic, 0, (await other.bounds(topic, 0)).latest)
        await other.topics.get(topic)
        await other.retain()
        for reader in (behind, behind_waits):
            with pytest.raises(PositionGone):
                await until_error(reader)
            await reader.aclose()


async def test_a_stream_that_an_operator_purged_is_an_error_and_no_silent_skip(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 2)
        await log.publish(topic, 0, keyed("k", *range(10)))
        await log.publish(topic, 1, keyed("other", 1))
        shared.ask(f"$JS.API.STREAM.PURGE.{topic}", b'{"seq": 6}')
        with pytest.raises(PositionGone) as gone:
            await within(log.read(topic, 0, 3).next(1))
        assert gone.value.earliest == 5
        assert values(await take(log.read(topic, 0, gone.value.earliest), 5)) == [
            f"k:{number}" for number in range(5, 10)
        ]


async def test_a_log_that_was_lost_is_an_error(tmp_path: Path, topic: str) -> None:
    with NatsServer(tmp_path / "before") as before:
        async with log_on(before) as log:
            await log.provision(topic, 1)
            await log.publish(topic, 0, keyed("k", *range(20)))
            reader = log.read(topic, 0, 0)
            await take(reader, 20)
            before.stop()
            # The same address, and none of the data.
            with NatsServer(tmp_path / "after", port=before.port):
                with pytest.raises((Misconfigured, PositionGone)):
                    await until_error(reader)
                async with log_on(before) as provisioner:
                    await provisioner.provision(topic, 1)
                with pytest.raises(PositionGone) as gone:
                    await until_error(reader)
                assert gone.value.position == 20
            await reader.aclose()


# -- retention ----------------------------------------------------------------------------------------------------------


async def test_read_records_stay_for_as_long_as_they_are_kept(shared: NatsServer, topic: str) -> None:
    async with log_on(shared, keep="1h") as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", *range(20)))
        last = (await log.bounds(topic, 0)).latest
        await log.mark("s", topic, 0, last)
        await log.retain()
        assert len(await everything(log, topic, 0, after=0)) == 20
    async with log_on(shared, keep="1s") as log:
        await log.topics.get(topic)

        async def all_gone() -> bool:
            await log.retain()
            return (await log.bounds(topic, 0)).earliest == last

        async with asyncio.timeout(10):
            while not await all_gone():  # noqa: ASYNC110 - a condition of the server
                await asyncio.sleep(0.1)


async def test_retention_in_one_process_respects_marks_of_another(shared: NatsServer, topic: str) -> None:
    async with log_on(shared) as log, log_on(shared) as other:
        await log.provision(topic, 2)
        await log.publish(topic, 0, keyed("k", *range(20)))
        await log.publish(topic, 1, keyed("j", *range(20)))
        records = await everything(log, topic, 0)
        await other.mark("slow", topic, 0, records[4].position)
        await log.mark("fast", topic, 0, records[-1].position)
        await log.mark("fast", topic, 1, (await log.bounds(topic, 1)).latest)
        await asyncio.wait_for(log.retain(), 10)
        await asyncio.wait_for(other.retain(), 10)
        assert await everything(log, topic, 0) == records[5:]
        assert len(await everything(other, topic, 1)) == 20, "the slow one never marked this partition"


async def test_a_subscription_and_a_topic_may_have_any_name(shared: NatsServer) -> None:
    async with log_on(shared) as log:
        for topic in ("shop.orders_eu-1", "shop..orders", ".dots.", "Bestellungen.für.日本", "a=2Eb", "a.b"):
            await log.provision(topic, 1)
            await log.publish(topic, 0, keyed(topic, *range(3)))
            await log.mark("größe.of > all", topic, 0, (await log.bounds(topic, 0)).latest - 1)
            await log.retain()
            assert values(await everything(log, topic, 0)) == [f"{topic}:2"]
        with pytest.raises(Misconfigured, match="255"):
            await log.provision("x" * 300, 1)


async def test_a_stream_of_somebody_else_is_left_alone(shared: NatsServer, topic: str) -> None:
    shared.ask(f"$JS.API.STREAM.CREATE.{topic}", b'{"name": "%s", "subjects": ["theirs"]}' % topic.encode())
    async with log_on(shared) as log:
        with pytest.raises(Misconfigured, match="not made by Millstream"):
            await log.provision(topic, 1)


# -- helpers ------------------------------------------------------------------------------------------------------------


def change(server: NatsServer, stream: str, **settings: object) -> None:
    """Change a stream as an operator would."""
    config = server.ask(f"$JS.API.STREAM.INFO.{stream}")["config"]
    answer = server.ask(f"$JS.API.STREAM.UPDATE.{stream}", json.dumps({**config, **settings}).encode())
    assert "error" not in answer, answer


async def condition(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what it looks at is changed by whatever came from a server
            await asyncio.sleep(0.02)


async def seconds_until_unavailable(call: Awaitable[object]) -> float:
    started = time.monotonic()
    with pytest.raises(TransportUnavailable):
        await within(call, 60)
    return time.monotonic() - started


async def until_published(log: Transport, topic: str, records: list[Record]) -> None:
    done = 0
    async with asyncio.timeout(30):
        while done < len(records):
            try:
                done += await log.publish(topic, 0, records[done:])
            except TransportUnavailable:
                await asyncio.sleep(0.05)


async def until_read(reader: Reader) -> list[Record]:
    async with asyncio.timeout(30):
        while True:
            try:
                return list(await reader.next(100))
            except TransportUnavailable:
                await asyncio.sleep(0.05)


async def until_error(reader: Reader) -> None:
    """Read until something else than an outage is raised."""
    async with asyncio.timeout(30):
        while True:
            await until_read(reader)
