"""The RabbitMQ log when its broker dies, stalls, runs out of memory, deletes, or is changed under it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from millstream.clock import SystemClock
from millstream.errors import Misconfigured, PositionGone, RecordRefused, TransportUnavailable
from millstream.message import Record
from millstream.ports.instrumentation import Silent
from millstream.ports.transport import Reader, Transport
from millstream.runtime.adapters import AdapterContext, open_transport
from millstream.testing.conformance.transport_case import everything, keyed, take, values, within
from millstream.testing.conformance.transport_publishing import first_occurrences
from millstream.testing.engines.rabbitmq import RabbitmqServer

BROKER_LIMIT_BYTES = 600_000
"""The broker takes less than the adapter believes."""
BOUND_SECONDS = 12.0
"""A call that cannot succeed ends within this time: timeout and heartbeat are 2 s, the machine may be busy."""
START_SECONDS = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitmqServer]:
    """A broker that tests kill and pause; each leaves it running."""
    settings = {"max_message_size": str(BROKER_LIMIT_BYTES)}
    with RabbitmqServer(tmp_path_factory.mktemp("rabbitmq"), settings) as server:
        yield server


@pytest.fixture
def opened(server: RabbitmqServer) -> Callable[..., Transport]:
    """A transport on the broker, with options of the URL."""

    def make(**options: object) -> Transport:
        return open_transport(_url(server.url, **{"timeout": "2s", "heartbeat": "2s", **options}), _context())

    return make


@pytest.fixture
def topic() -> str:
    return f"topic-{uuid4().hex}"


def _url(url: str, **options: object) -> str:
    return f"{url}?{'&'.join(f'{name}={value}' for name, value in options.items())}"


def _context() -> AdapterContext:
    return AdapterContext(Path(), SystemClock(), Silent())


# -- the broker dies, stalls, or is short of memory -----------------------------------------------------------------


async def test_publisher_and_reader_carry_on_after_the_broker_was_killed(
    server: RabbitmqServer, opened: Callable[..., Transport], topic: str
) -> None:
    """L1, L2: nothing confirmed is lost, and first occurrences keep their order, while both repeat what was unclear. It is
    this broker's first topic, and so the killed one has only just learned that it has streams."""
    total, done, outages = 3000, 0, 0
    halfway = asyncio.Event()

    async def publisher(log: Transport) -> None:
        nonlocal done, outages
        while done < total:
            try:
                # Ten keys: number n belongs to key n mod 10.
                batch = [Record(str(n).encode(), f"k{n % 10}") for n in range(done, min(done + 100, total))]
                done += await log.publish(topic, 0, batch)
            except TransportUnavailable:
                outages += 1
                await asyncio.sleep(0.05)
            if done >= 1000:
                halfway.set()

    async def reader(log: Transport) -> list[Record]:
        found: list[Record] = []
        while len({record.value for record in found}) < total:
            reading = log.read(topic, 0, found[-1].position if found else 0)
            try:
                while len({record.value for record in found}) < total:
                    found += await reading.next(200)
            except TransportUnavailable:
                await asyncio.sleep(0.05)
            finally:
                await reading.aclose()
        return found

    async with opened() as log:
        await log.provision(topic, 1)
        async with asyncio.timeout(2 * START_SECONDS), asyncio.TaskGroup() as group:
            reading = group.create_task(reader(log))
            group.create_task(publisher(log))
            await halfway.wait()
            server.kill()
            began = time.monotonic()
            with pytest.raises(TransportUnavailable):
                await log.bounds(topic, 0)
            assert time.monotonic() - began < BOUND_SECONDS
            await asyncio.to_thread(server.start)
        found = reading.result()
        assert await _everything(log, topic) == found
    for key in range(10):
        numbers = list(dict.fromkeys(int(record.value) for record in found if record.key == f"k{key}"))
        assert numbers == list(range(key, total, 10))
    assert outages > 0, "the broker was away, and said so"


async def test_a_broker_that_stalls_is_unavailable_in_bounded_time(
    server: RabbitmqServer, opened: Callable[..., Transport], topic: str
) -> None:
    """A half-open peer: publish, a waiting reader and a new one all end; afterwards everything goes on."""
    async with opened() as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        reader = log.read(topic, 0, 0)
        assert values(await take(reader, 1)) == ["k:1"]
        waiting = asyncio.get_running_loop().create_task(reader.next(1))
        await asyncio.sleep(0)
        server.pause()
        try:
            began = time.monotonic()
            with pytest.raises(TransportUnavailable):
                await log.publish(topic, 0, keyed("k", 2))
            with pytest.raises(TransportUnavailable):
                await waiting
            with pytest.raises(TransportUnavailable):
                await log.read(topic, 0, 0).next(1)
            assert time.monotonic() - began < BOUND_SECONDS
        finally:
            server.resume()
        assert await within(_published(log, topic, keyed("k", 2, 3)))
        # The same reader goes on behind what it returned; k:2 may be there twice.
        found: list[str] = []
        while "k:3" not in found:
            found += values(await within(reader.next(10)))
        assert list(dict.fromkeys(found)) == ["k:2", "k:3"]
        await reader.aclose()


async def test_closing_while_the_broker_stalls_hangs_nobody(
    server: RabbitmqServer, opened: Callable[..., Transport], topic: str
) -> None:
    """Closing ends publishers and readers also when the broker does not answer, and leaves no task behind."""
    log = opened(timeout="60s")
    async with log:
        await log.provision(topic, 1)
        readers = [log.read(topic, 0, 0) for _ in range(3)]
        tasks = [asyncio.get_running_loop().create_task(reader.next(1)) for reader in readers]
        await log.publish(topic, 0, keyed("k", 1))
        assert [values(await within(task)) for task in tasks] == [["k:1"]] * 3
        server.pause()
        tasks = [asyncio.get_running_loop().create_task(reader.next(1)) for reader in readers]
        tasks += [asyncio.get_running_loop().create_task(log.publish(topic, 0, keyed("k", n))) for n in range(20)]
        await asyncio.sleep(0)
        began = time.monotonic()
    try:
        await within(asyncio.wait(tasks))
        assert time.monotonic() - began < BOUND_SECONDS
        assert all(isinstance(task.exception(), TransportUnavailable) for task in tasks)
        for reader in readers:
            await reader.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    finally:
        server.resume()


async def test_a_broker_without_memory_takes_nothing_and_readers_go_on(
    server: RabbitmqServer, opened: Callable[..., Transport], topic: str
) -> None:
    """While the memory alarm holds publishers, publish is TransportUnavailable in bounded time, and reading works. And a
    broker that is stopped leaves nothing running: no epmd, no helper of Erlang."""
    async with opened() as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
    configuration = server.folder / "rabbitmq.conf"
    usual = configuration.read_text()
    assert _processes_of(server.folder)
    server.stop()
    assert not _processes_of(server.folder)
    configuration.write_text(usual.replace("high_watermark.absolute = 512MB", "high_watermark.absolute = 1MB"))
    await asyncio.to_thread(server.start)
    try:
        async with opened() as log:
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(TransportUnavailable):
                    await log.publish(topic, 0, keyed("k", 2))
                assert time.monotonic() - began < BOUND_SECONDS
            assert values(await _everything(log, topic)) == ["k:1"]
    finally:
        server.stop()
        configuration.write_text(usual)
        await asyncio.to_thread(server.start)
    async with opened() as log:
        assert await within(_published(log, topic, keyed("k", 2))) == 1
        assert first_occurrences(await everything(log, topic, 0)) == ["k:1", "k:2"]


def _processes_of(folder: Path) -> list[str]:
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
    return found


async def _everything(log: Transport, topic: str) -> list[Record]:
    """What the partition holds, once the broker has its streams again: it answers earlier."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                return await everything(log, topic, 0)
            except TransportUnavailable:
                await asyncio.sleep(0.05)


async def _published(log: Transport, topic: str, records: list[Record]) -> int:
    """Publish, again while the broker is away."""
    done = 0
    while done < len(records):
        try:
            done += await log.publish(topic, 0, records[done:])
        except TransportUnavailable:
            await asyncio.sleep(0.05)
    return done


# -- what is published --------------------------------------------------------------------------------------------------


async def test_a_record_that_the_broker_refuses_is_named_and_what_stands_before_it_is_durable(
    opened: Callable[..., Transport], topic: str
) -> None:
    """R3: the broker closes the channel and does not say over which record; the adapter finds it, and goes on after it."""
    async with opened() as log:
        await log.provision(topic, 1)
        large = Record(bytes(BROKER_LIMIT_BYTES + 1), "a")
        batch = [*keyed("a", 1), *keyed("b", 1), *keyed("c", 1), large, *keyed("b", 2), *keyed("a", 3)]
        with pytest.raises(RecordRefused) as refused:
            await log.publish(topic, 0, batch)
        assert refused.value.index == 3
        assert str(BROKER_LIMIT_BYTES) in refused.value.reason
        found = values(await everything(log, topic, 0))
        assert list(dict.fromkeys(found))[:3] == ["a:1", "b:1", "c:1"]
        assert "a:3" not in found
        assert await log.publish(topic, 0, keyed("b", 2)) == 1
        assert await log.publish(topic, 0, [Record(bytes(BROKER_LIMIT_BYTES), "a")]) == 1


async def test_a_zombie_does_not_change_the_order_of_first_occurrences(
    opened: Callable[..., Transport], topic: str
) -> None:
    """L2: two processes publish the same rows of three keys, in batches of other sizes."""

    async def relay(log: Transport, size: int) -> None:
        done = 0
        while done < 300:
            batch = [Record(f"{n}".encode(), f"k{n % 3}") for n in range(done, min(done + size, 300))]
            done += await log.publish(topic, 0, batch)

    async with opened() as one, opened() as other:
        await one.provision(topic, 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(relay(one, 17))
            group.create_task(relay(other, 40))
        records = await everything(one, topic, 0)
        assert len(records) == 600
        for key in range(3):
            numbers = list(dict.fromkeys(int(r.value) for r in records if r.key == f"k{key}"))
            assert numbers == list(range(key, 300, 3))


async def test_a_slow_reader_holds_no_more_than_its_prefetch(opened: Callable[..., Transport], topic: str) -> None:
    """Memory is bounded: the window, and one chunk that RabbitMQ sends beyond it. Nothing is lost for it."""
    async with opened(prefetch=50) as log:
        await log.provision(topic, 1)
        for start in range(0, 4000, 500):
            await log.publish(topic, 0, [Record(b"x" * 100, None) for _ in range(start, start + 500)])
        reader: Any = log.read(topic, 0, 0)
        found = list(await within(reader.next(1)))
        last = (await log.bounds(topic, 0)).latest  # a round trip: whatever is sent beforehand has come
        held = len(reader._delivered)
        assert held < 50 + 1000, "4000 records wait in the broker, not here"
        while found[-1].position < last:
            found += await within(reader.next(7))
        assert len(found) == 4000
        await reader.aclose()


# -- what is gone -----------------------------------------------------------------------------------------------------


async def test_retention_that_overtakes_a_reader_is_an_error_and_never_a_skip(
    opened: Callable[..., Transport], topic: str
) -> None:
    """L4: RabbitMQ moves a slow consumer to the oldest segment left, without a word. A reader notices, open or new; one
    that had read everything deleted has missed nothing."""
    async with opened(keep="1s", segment_bytes=20_000, prefetch=1) as log:
        await log.provision(topic, 1)
        slow = log.read(topic, 0, 0)
        assert values(await _some(log, slow, topic)) == ["k:0"]
        number = 1
        async with asyncio.timeout(START_SECONDS):
            while (await log.bounds(topic, 0)).earliest < 40:
                padding = b"".ljust(2000)
                await log.publish(topic, 0, [Record(f"k:{number + n}".encode() + padding, None) for n in range(10)])
                number += 10
                await asyncio.sleep(0.2)
        bounds = await log.bounds(topic, 0)
        with pytest.raises(PositionGone) as gone:
            await take(slow, 1000)
        assert gone.value.earliest == bounds.earliest
        for after in (0, 1, 5, bounds.earliest - 2):
            with pytest.raises(PositionGone) as gone:
                await within(log.read(topic, 0, after).next(1))
            assert (gone.value.position, gone.value.earliest) == (after, bounds.earliest)
        left = await everything(log, topic, 0)
        assert left[0].position == bounds.earliest + 1
        assert [int(r.value[2:]) for r in left] == list(range(number - len(left), number)), "without a gap"
        # RabbitMQ's own entry stands before the first record: whoever read up to there misses none.
        for after in (bounds.earliest - 1, bounds.earliest):
            reader = log.read(topic, 0, after)
            assert (await take(reader, len(left)))[0] == left[0]
            await reader.aclose()


async def _some(log: Transport, reader: Reader, topic: str) -> list[Record]:
    await log.publish(topic, 0, keyed("k", 0))
    return await take(reader, 1)


async def test_a_queue_that_was_deleted_is_an_error_for_publishers_and_readers(
    server: RabbitmqServer, opened: Callable[..., Transport], topic: str
) -> None:
    """L4: nothing is confirmed that no queue holds, and a log that begins anew under its readers is PositionGone."""
    async with opened() as log, await aio_pika.connect(server.amqp_url) as plain:
        channel = await plain.channel()
        await log.provision(topic, 2)
        await log.publish(topic, 0, keyed("k", 1, 2, 3))
        reader = log.read(topic, 0, 0)
        last = (await take(reader, 3))[-1].position
        waiting = asyncio.get_running_loop().create_task(reader.next(1))
        await asyncio.sleep(0)
        await channel.queue_delete(f"{topic}.0")
        with pytest.raises(TransportUnavailable):
            await within(waiting)
        with pytest.raises(Misconfigured, match="provision"):
            await within(reader.next(1))
        with pytest.raises(Misconfigured, match="provision"):
            await within(log.publish(topic, 0, keyed("k", 4)))
        # An operator puts it back, empty: the topic was provisioned, so its queues are looked at only when told so.
        await channel.queue_delete(f"{topic}.partitions")
        await log.provision(topic, 2)
        await log.publish(topic, 0, keyed("k", 4))
        with pytest.raises(PositionGone) as gone:
            await within(log.read(topic, 0, last).next(1))
        assert gone.value.earliest == 1
        assert values(await everything(log, topic, 0)) == ["k:4"]


# -- topics -----------------------------------------------------------------------------------------------------------


async def test_a_provisioning_that_was_cut_short_is_completed_by_the_next_one(
    server: RabbitmqServer, opened: Callable[..., Transport], topic: str
) -> None:
    """Until then the topic does not exist: no relay publishes to the half that is there."""
    async with opened() as log, await aio_pika.connect(server.amqp_url) as plain:
        channel = await plain.channel()
        stream = {"x-queue-type": "stream"}
        for number in (0, 1):  # declared with another retention, too
            await channel.declare_queue(f"{topic}.{number}", durable=True, arguments={**stream, "x-max-age": "1h"})
        assert await log.partitions(topic) is None
        with pytest.raises(Misconfigured):
            await log.publish(topic, 0, keyed("k", 1))
        await channel.declare_queue(f"{topic}.partitions", durable=True, arguments=dict(stream))
        with pytest.raises(TransportUnavailable, match="does not show yet"):
            await log.partitions(topic)
        await log.provision(topic, 4)
        assert await log.partitions(topic) == 4
        for partition in range(4):
            assert await log.publish(topic, partition, keyed("k", partition)) == 1
            assert values(await everything(log, topic, partition)) == [f"k:{partition}"]


async def test_of_two_provisionings_at_once_one_count_wins(opened: Callable[..., Transport], topic: str) -> None:
    async with opened() as one, opened() as other:
        done = await asyncio.gather(one.provision(topic, 2), other.provision(topic, 3), return_exceptions=True)
        failed = [error for error in done if error is not None]
        assert len(failed) == 1
        assert isinstance(failed[0], Misconfigured)
        assert await one.partitions(topic) == await other.partitions(topic) == (2 if done[0] is None else 3)


async def test_a_queue_of_that_name_that_is_no_stream_is_refused(
    server: RabbitmqServer, opened: Callable[..., Transport], topic: str
) -> None:
    async with opened() as log, await aio_pika.connect(server.amqp_url) as plain:
        await (await plain.channel()).declare_queue(f"{topic}.0", durable=True)
        with pytest.raises(Misconfigured, match="no stream"):
            await log.provision(topic, 1)


# -- configuration ----------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_misconfigured_and_never_shown(server: RabbitmqServer) -> None:
    url = server.url.replace("guest:guest", "guest:s3cret%2Fword")
    async with open_transport(url, _context()) as log:
        for call in (log.partitions("t"), log.publish("t", 0, keyed("k", 1)), log.durability()):
            with pytest.raises(Misconfigured, match="password") as refused:
                await within(call)
            assert "s3cret" not in str(refused.value)
            assert "s3cret" not in repr(vars(log))


async def test_a_virtual_host_that_does_not_exist_is_misconfigured(server: RabbitmqServer) -> None:
    async with open_transport(f"{server.url}/nowhere", _context()) as log:
        with pytest.raises(Misconfigured, match="nowhere"):
            await within(log.partitions("t"))


async def test_the_first_broker_that_answers_is_used(server: RabbitmqServer) -> None:
    """Several brokers in the URL: one that is down costs nothing but the attempt."""
    url = server.url.replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:")
    async with open_transport(url, _context()) as log:
        assert await within(log.partitions("nothing")) is None


async def test_durability_is_named_with_what_is_missing(opened: Callable[..., Transport]) -> None:
    """Streams are confirmed before fsync: only copies on other machines survive a power cut."""
    async with opened() as log:
        durability = await log.durability()
        assert (durability.process_crash, durability.power_loss) == (True, False)
        assert "replicas=3" in durability.why_not
    async with opened(replicas=3) as log:
        assert (await log.durability()).power_loss


def test_every_problem_of_a_url_is_listed_at_once() -> None:
    url = "rabbitmq://u:secret@:1,host:x/a/b?colour=red&timeout=soon&prefetch=0&tls=maybe&replicas=-1"
    with pytest.raises(Misconfigured) as refused:
        open_transport(url, _context())
    text = str(refused.value)
    for wrong in ("colour", "soon", "prefetch=0", "tls=maybe", "replicas=-1", "%2F", "broker ':1'", "broker 'host:x'"):
        assert wrong in text
    assert "secret" not in text
