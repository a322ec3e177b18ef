"""The Redis log when its server dies, stalls, fills up or forgets, and what many readers and large records cost."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from millstream.clock import SystemClock
from millstream.errors import Misconfigured, PositionGone, TransportUnavailable
from millstream.message import Record
from millstream.ports.transport import Bounds
from millstream.testing.conformance.transport_case import PATIENCE, everything, keyed, take, values, within
from millstream.testing.engines.redis import RedisServer
from millstream.transports.redis import RedisOptions, RedisTransport, tail, transport
from millstream.transports.redis.connections import Address
from millstream.transports.redis.transport import READ_BYTES
from redis.asyncio import Redis

IMPATIENT = "1s"
"""The timeout of tests that wait for it to pass."""
BOUND_SECONDS = 8.0
"""A call that cannot succeed ends within this time: the timeout, and room for a busy machine."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test kills or empties."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may do anything to."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = Redis.from_url(server.url)
    yield client
    await client.aclose()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return request.node.name


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that wait look by themselves after a moment instead of after five seconds."""
    monkeypatch.setattr(tail, "BLOCK_MS", 50)


def log_on(server: RedisServer, **options: Any) -> RedisTransport:
    return RedisTransport(
        Address(host="127.0.0.1", port=server.port), options=RedisOptions(**{"keep": 0, "timeout": "5s", **options})
    )


class ShiftedClock(SystemClock):
    """The machine's clock, but that the wall clock may be ahead."""

    ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us


async def condition(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - what is waited for lives in another task's list
            await asyncio.sleep(0.005)


async def seconds_until_unavailable(call: Awaitable[object]) -> float:
    start = time.monotonic()
    with pytest.raises(TransportUnavailable):
        await within(call)
    return time.monotonic() - start


async def until_published(log: RedisTransport, topic: str, records: list[Record]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                assert await log.publish(topic, 0, records) == len(records)
                return
            except TransportUnavailable:
                await asyncio.sleep(0.02)


async def until_read(log: RedisTransport, topic: str, after: int) -> list[Record]:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return list(await log.read(topic, 0, after).next(100))
            except TransportUnavailable:
                await asyncio.sleep(0.02)


# -- the server dies or stalls ------------------------------------------------------------------------------------------


async def test_publisher_and_reader_carry_on_after_the_server_was_killed(server: RedisServer, topic: str) -> None:
    total, found = 4_000, list[Record]()

    async def publisher(log: RedisTransport) -> None:
        done = 0
        while done < total:
            numbers = range(done, min(done + 90, total))
            try:
                done += await log.publish(topic, 0, [Record(str(n).encode(), f"key-{n % 7}") for n in numbers])
            except TransportUnavailable:
                await asyncio.sleep(0.02)

    async def reader(log: RedisTransport) -> None:
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
    assert found == stored[: len(found)]
    assert [record.position for record in stored] == list(range(1, len(stored) + 1))
    first = list(dict.fromkeys(int(record.value) for record in stored))
    assert first == list(range(total))


async def test_a_stalled_server_ends_every_call_in_bounded_time(server: RedisServer, topic: str) -> None:
    async with log_on(server, timeout=IMPATIENT) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        server.pause()
        try:
            for call in (
                log.publish(topic, 0, keyed("k", 2, 3)),
                log.bounds(topic, 0),
                log.read(topic, 0, 0).next(1),
                log.partitions("another"),
                log.durability(),
                log.mark("s", topic, 0, 1),
            ):
                assert await seconds_until_unavailable(call) < BOUND_SECONDS
        finally:
            server.resume()
        # The server may yet take what was sent before: a repeat.
        await until_published(log, topic, keyed("k", 2, 3))
        assert list(dict.fromkeys(values(await everything(log, topic, 0)))) == ["k:1", "k:2", "k:3"]


@pytest.mark.usefixtures("looking_often")
async def test_a_reader_that_waits_hears_of_a_stalled_server_and_goes_on_later(server: RedisServer, topic: str) -> None:
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
        assert values(await until_read(log, topic, 1)) == ["k:2"]


async def test_while_the_server_is_gone_every_call_says_so_and_the_same_objects_go_on(
    server: RedisServer, topic: str
) -> None:
    async with log_on(server) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        reader = log.read(topic, 0, 1)
        waiting = asyncio.get_running_loop().create_task(reader.next(1))
        await asyncio.sleep(0.05)
        server.stop()
        assert await seconds_until_unavailable(waiting) < BOUND_SECONDS
        for _ in range(3):
            assert await seconds_until_unavailable(log.publish(topic, 0, keyed("k", 2))) < 1.0
            assert await seconds_until_unavailable(reader.next(1)) < 1.0
        server.start()
        await log.publish(topic, 0, keyed("k", 2))
        assert values(await within(reader.next(1))) == ["k:2"]


async def test_closing_while_everything_is_under_way_and_the_server_stalls_hangs_nobody(
    server: RedisServer, topic: str
) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        async with log_on(server, timeout=IMPATIENT, connections=3) as log:
            await log.provision(topic, 2)
            tasks = [loop.create_task(log.read(topic, n % 2, 0).next(5)) for n in range(20)]
            await asyncio.sleep(0.05)
            server.pause()
            tasks += [loop.create_task(log.publish(topic, n % 2, keyed("k", n))) for n in range(20)]
            await asyncio.sleep(0)
        await asyncio.wait(tasks)
        server.resume()
    assert {type(task.exception()) for task in tasks} == {TransportUnavailable}


# -- the server fills up ------------------------------------------------------------------------------------------------


async def test_a_server_without_memory_refuses_whole_batches_until_it_has_some(
    server: RedisServer, client: Redis, topic: str
) -> None:
    async with log_on(server) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        await client.config_set("maxmemory", "1mb")
        with pytest.raises(TransportUnavailable, match="maxmemory is reached"):
            await log.publish(topic, 0, keyed("k", 2, 3))
        assert values(await everything(log, topic, 0)) == ["k:1"], "reading goes on"
        await client.config_set("maxmemory", "0")
        await log.publish(topic, 0, keyed("k", 2, 3))
        assert values(await everything(log, topic, 0)) == ["k:1", "k:2", "k:3"]


async def test_retention_makes_room_in_a_full_server(server: RedisServer, client: Redis, topic: str) -> None:
    async with log_on(server) as log:
        await log.provision(topic, 1)
        await log.mark("s", topic, 0, 0)
        await log.publish(topic, 0, [Record(bytes(1_000_000)) for _ in range(20)])
        await log.mark("s", topic, 0, 20)
        await client.config_set("maxmemory", "15mb")
        with pytest.raises(TransportUnavailable):
            await log.publish(topic, 0, keyed("k", 1))
        assert await log.retain() == 20
        await until_published(log, topic, keyed("k", 1))


# -- the server forgets -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("looking_often")
async def test_a_server_that_was_emptied_is_noticed_by_whoever_waits(
    server: RedisServer, client: Redis, topic: str
) -> None:
    async with log_on(server) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1, 2))
        waiting = asyncio.get_running_loop().create_task(log.read(topic, 0, 2).next(1))
        await asyncio.sleep(0.02)
        await client.flushall()
        with pytest.raises(PositionGone):
            await within(waiting)
        with pytest.raises(Misconfigured, match="not provisioned"):
            await log.publish(topic, 0, keyed("k", 3))
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 3))
        with pytest.raises(PositionGone) as gone:
            await within(log.read(topic, 0, 2).next(1))
        assert gone.value.earliest == 0


async def test_a_stream_that_was_deleted_comes_back_behind_what_was_read(
    server: RedisServer, client: Redis, topic: str
) -> None:
    async with log_on(server) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", *range(1, 6)))
        await log.mark("fast", topic, 0, 5)
        await log.mark("slow", topic, 0, 3)
        await client.delete(f"millstream:{topic}:0")
        with pytest.raises(TransportUnavailable, match="is gone"):
            await log.publish(topic, 0, keyed("k", 6))
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 6))
        assert [(r.position, r.value) for r in await within(log.read(topic, 0, 5).next(9))] == [(6, b"k:6")]
        with pytest.raises(PositionGone) as gone:
            await within(log.read(topic, 0, 3).next(9))
        assert gone.value.earliest == 5


async def test_a_backup_that_was_put_back_is_noticed(server: RedisServer, topic: str, tmp_path: Path) -> None:
    async with log_on(server) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1, 2, 3))
        server.stop()
        shutil.copytree(tmp_path / "appendonlydir", tmp_path / "backup")
        server.start()
        await until_published(log, topic, keyed("k", 4, 5))
        reader = log.read(topic, 0, 3)
        assert values(await take(reader, 2)) == ["k:4", "k:5"]
        server.stop()
        shutil.rmtree(tmp_path / "appendonlydir")
        shutil.copytree(tmp_path / "backup", tmp_path / "appendonlydir")
        server.start()
        with pytest.raises(PositionGone) as gone:
            await until_read(log, topic, 5)
        assert (gone.value.position, gone.value.earliest) == (5, 0)


# -- many, large, old ---------------------------------------------------------------------------------------------------


async def test_sixty_readers_wait_on_one_connection(server: RedisServer, client: Redis, topic: str) -> None:
    async with log_on(server, connections=4) as log:
        await log.provision(topic, 60)
        readers = [log.read(topic, number, 0) for number in range(60)]
        waiting = [asyncio.get_running_loop().create_task(within(reader.next(10))) for reader in readers]
        connected = 0
        for number in range(60):
            await log.publish(topic, number, keyed("k", number))
            assert values(await waiting[number]) == [f"k:{number}"]
            connected = max(connected, int((await client.info("clients"))["connected_clients"]))
        assert connected <= 4 + 1 + 1, "calls, waiting, and this test's own"


async def test_large_records_are_read_a_few_at_a_time(shared: RedisServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        size = 1_000_000
        await log.publish(topic, 0, [Record(bytes([number]) * size, "k") for number in range(20)])
        reader, found = log.read(topic, 0, 0), list[Record]()
        while len(found) < 20:
            step = await within(reader.next(500))
            assert len(step) <= READ_BYTES // size + 1
            found += step
        assert [record.value[0] for record in found] == list(range(20))


async def test_a_publish_too_large_for_one_command_is_cut(
    shared: RedisServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PUBLISH_BYTES", 1_000)
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        sent = [Record(str(number).encode() * (1 + number % 300), "k") for number in range(1_000)]
        assert await log.publish(topic, 0, sent) == 1_000
        assert [record.value for record in await everything(log, topic, 0)] == [record.value for record in sent]


async def test_records_stay_until_they_are_old_enough(shared: RedisServer, topic: str) -> None:
    clock = ShiftedClock()
    async with RedisTransport(
        Address(host="127.0.0.1", port=shared.port), clock=clock, options=RedisOptions(keep="1h")
    ) as log:
        await log.provision(topic, 1)
        await log.mark("s", topic, 0, 0)
        for hour in range(3):
            await log.publish(topic, 0, keyed("k", hour))
            await log.mark("s", topic, 0, hour + 1)
            for minutes in (0, 59):
                clock.ahead_us += minutes * 60_000_000
                await log.retain()
                assert await log.bounds(topic, 0) == Bounds(earliest=hour, latest=hour + 1)
            clock.ahead_us += 2 * 60_000_000
        await log.retain()
        assert await log.bounds(topic, 0) == Bounds(earliest=3, latest=3)


async def test_much_is_deleted_in_small_steps(shared: RedisServer, topic: str) -> None:
    async with log_on(shared) as log:
        await log.provision(topic, 1)
        await log.mark("s", topic, 0, 0)
        for _ in range(5):
            await log.publish(topic, 0, keyed("k", *range(5_000)))
        await log.mark("s", topic, 0, 24_999)
        assert await log.retain() == 24_999
        assert await log.bounds(topic, 0) == Bounds(earliest=24_999, latest=25_000)


async def test_a_script_that_the_server_forgot_is_sent_again(server: RedisServer, client: Redis, topic: str) -> None:
    async with log_on(server) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        await client.script_flush()
        assert await log.publish(topic, 0, keyed("k", 2)) == 1
        assert values(await everything(log, topic, 0)) == ["k:1", "k:2"]
