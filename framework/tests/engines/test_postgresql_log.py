"""The log in PostgreSQL when its server dies, stalls, ends sessions or forgets, and under long transactions elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import psycopg.sql
import pytest
from millstream.clock import SystemClock
from millstream.errors import PositionGone, RecordRefused, TransportUnavailable
from millstream.message import Record
from millstream.ports.instrumentation import Silent
from millstream.ports.transport import Bounds
from millstream.postgresql.connection import Bound
from millstream.runtime.adapters import AdapterContext
from millstream.testing.conformance.transport_case import PATIENCE, everything, keyed, take, values, within
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.transports.postgresql import PostgresqlLog, layout, open_transport, transport
from millstream.transports.postgresql.layout import READ_BYTES

IMPATIENT = "limit=1s"
"""A server that does not answer counts as gone after this and two seconds more."""
BOUND_SECONDS = 14.0
"""A call that cannot succeed ends within this time: the limit, a try to connect, and room for a busy machine."""
LOG = "millstream_log"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return request.node.name


@pytest.fixture
async def log(server: PostgresqlServer) -> AsyncIterator[PostgresqlLog]:
    async with log_on(server) as log:
        yield log


def log_on(server: PostgresqlServer, options: str = "limit=5s", keep_seconds: float = 0) -> PostgresqlLog:
    context = AdapterContext(Path(), SystemClock(), Silent(), keep_seconds)
    return open_transport(f"{server.url}?{options}", context)


async def foreign(server: PostgresqlServer) -> psycopg.AsyncConnection[tuple[object, ...]]:
    return await psycopg.AsyncConnection.connect(f"{server.url}/{LOG}")


async def pages(connection: psycopg.AsyncConnection[tuple[object, ...]], statement: Bound) -> int:
    """How many pages the server looks at for a statement."""
    text, (parameters, formats) = statement
    binary = formats or [0] * len(parameters)
    literals = [_literal(value, of) for value, of in zip(parameters, binary, strict=True)]
    for number, literal in enumerate(literals, 1):
        text = text.replace(b"$%d" % number, literal.encode())
    cursor = await connection.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + text)
    row = await cursor.fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]  # pyright: ignore[reportIndexIssue] - JSON
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def _literal(value: bytes | None, binary: int) -> str:
    if value is None:
        return "NULL"
    # Binary are arrays of values alone; one of the same kind will do for a plan.
    return "ARRAY['k:2'::bytea]" if binary else psycopg.sql.quote(value.decode())


async def condition(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - what is waited for lives in another task's list
            await asyncio.sleep(0.005)


async def seconds_until_unavailable(call: Awaitable[object]) -> float:
    start = time.monotonic()
    with pytest.raises(TransportUnavailable):
        await within(call, BOUND_SECONDS * 2)
    return time.monotonic() - start


async def until_published(log: PostgresqlLog, topic: str, records: list[Record]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                assert await log.publish(topic, 0, records) == len(records)
                return
            except TransportUnavailable:
                await asyncio.sleep(0.02)


async def until_read(log: PostgresqlLog, topic: str, after: int) -> list[Record]:
    async with asyncio.timeout(PATIENCE):
        while True:
            reader = log.read(topic, 0, after)
            try:
                return list(await reader.next(100))
            except TransportUnavailable:
                await asyncio.sleep(0.02)
            finally:
                await reader.aclose()


# -- the server dies or stalls ------------------------------------------------------------------------------------------


async def test_publisher_and_reader_carry_on_after_the_server_was_killed(server: PostgresqlServer, topic: str) -> None:
    total, found = 4_000, list[Record]()

    async def publisher(log: PostgresqlLog) -> None:
        done = 0
        while done < total:
            numbers = range(done, min(done + 90, total))
            try:
                done += await log.publish(topic, 0, [Record(str(n).encode(), f"key-{n % 7}") for n in numbers])
            except TransportUnavailable:
                await asyncio.sleep(0.02)

    async def reader(log: PostgresqlLog) -> None:
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


async def test_a_stalled_server_ends_every_call_in_bounded_time(server: PostgresqlServer, topic: str) -> None:
    async with log_on(server, IMPATIENT) as log:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1))
        reader = log.read(topic, 0, 1)
        waiting = asyncio.get_running_loop().create_task(reader.next(1))
        await asyncio.sleep(0)
        server.pause()
        try:
            calls = [
                log.publish(topic, 0, keyed("k", 2, 3)),
                log.bounds(topic, 0),
                log.mark("s", topic, 0, 1),
                log.durability(),
                waiting,
            ]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(seconds_until_unavailable(call)) for call in calls]
            assert max(task.result() for task in tasks) < BOUND_SECONDS
        finally:
            server.resume()
        # The server may yet commit what was sent before: a repeat.
        await until_published(log, topic, keyed("k", 2, 3))
        assert values(await until_read(log, topic, 1))[:2] == ["k:2", "k:3"]
        assert list(dict.fromkeys(values(await everything(log, topic, 0)))) == ["k:1", "k:2", "k:3"]
        await reader.aclose()


async def test_while_the_server_is_gone_every_call_says_so_and_the_same_objects_go_on(
    server: PostgresqlServer, topic: str
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
            assert await seconds_until_unavailable(log.publish(topic, 0, keyed("k", 2))) < 2.0
            assert await seconds_until_unavailable(reader.next(1)) < 2.0
        server.start()
        await until_published(log, topic, keyed("k", 2))
        assert values(await within(reader.next(1))) == ["k:2"]
        await reader.aclose()


async def test_sessions_that_the_server_ends_cost_no_record(server: PostgresqlServer, topic: str) -> None:
    """Also the one that listens: who waits is woken again, by other processes too."""
    async with log_on(server) as log, log_on(server) as other:
        await log.provision(topic, 1)
        reader, found = log.read(topic, 0, 0), list[Record]()
        for turn in range(4):
            waiting = asyncio.get_running_loop().create_task(reader.next(100))
            await asyncio.sleep(0.02)
            server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{LOG}'")
            await until_published(other, topic, keyed("k", turn))
            try:
                found += await within(waiting)
            except TransportUnavailable:
                found += await until_read(log, topic, turn)
                await reader.aclose()
                reader = log.read(topic, 0, turn + 1)
        assert values(found) == [f"k:{turn}" for turn in range(4)]
        await reader.aclose()


async def test_closing_while_everything_is_under_way_and_the_server_stalls_hangs_nobody(
    server: PostgresqlServer, topic: str
) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(2 * PATIENCE):
        try:
            async with log_on(server, f"{IMPATIENT}&connections=3") as log:
                await log.provision(topic, 2)
                readers = [log.read(topic, number % 2, 0) for number in range(20)]
                tasks = [loop.create_task(reader.next(5)) for reader in readers]
                await asyncio.sleep(0.05)
                server.pause()
                tasks += [loop.create_task(log.publish(topic, n % 2, keyed("k", n))) for n in range(20)]
                await asyncio.sleep(0)
            await asyncio.wait(tasks)
        finally:
            server.resume()
    assert {type(task.exception()) for task in tasks} == {TransportUnavailable}


# -- other transactions -------------------------------------------------------------------------------------------------


async def test_an_append_that_is_not_committed_is_waited_for_and_leaves_no_gap(
    server: PostgresqlServer, log: PostgresqlLog, topic: str
) -> None:
    await log.provision(topic, 2)
    async with await foreign(server) as connection:
        append = "SELECT millstream_log_append(%s, 0, ARRAY[%s], ARRAY[%s::bytea])"
        for end in (connection.commit, connection.rollback, connection.commit):
            await connection.execute(append, (topic, "k", b"foreign"))
            publishing = asyncio.get_running_loop().create_task(log.publish(topic, 0, keyed("k", 1)))
            assert await log.publish(topic, 1, keyed("k", 1)) == 1, "the other partition goes on"
            assert not publishing.done()
            await end()
            assert await within(publishing) == 1
    records = await everything(log, topic, 0)
    assert values(records) == ["foreign", "k:1", "k:1", "foreign", "k:1"]
    assert [record.position for record in records] == [1, 2, 3, 4, 5]


async def test_a_long_transaction_elsewhere_slows_nothing_down(
    server: PostgresqlServer, log: PostgresqlLog, topic: str
) -> None:
    """Deleted rows stay in the index while it is open: nobody may walk over them."""
    await log.provision(topic, 1)
    await log.mark("s", topic, 0, 0)
    old = await psycopg.AsyncConnection.connect(f"{server.url}/{LOG}")
    async with old, await foreign(server) as connection:
        await old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await old.execute("SELECT count(*) FROM millstream_log_records")
        for _ in range(20):
            await log.publish(topic, 0, keyed("k", *range(1_000)))
        await log.mark("s", topic, 0, 20_000)
        assert await log.retain() == 20_000
        assert await log.bounds(topic, 0) == Bounds(earliest=20_000, latest=20_000)
        await log.publish(topic, 0, keyed("k", 1))

        for statement in (
            layout.bounds(topic, 0),
            layout.fetch(topic, 0, 0, 100),
            layout.fetch(topic, 0, 20_000, 100),
            layout.find_deletable(5_000, 0.0),
            layout.append(topic, 0, keyed("k", 2)),
        ):
            assert await pages(connection, statement) < 100, statement[0]
        with pytest.raises(PositionGone):
            await log.read(topic, 0, 0).next(10)
        await old.rollback()


# -- the server forgets -------------------------------------------------------------------------------------------------


async def test_a_log_that_was_put_back_is_noticed(server: PostgresqlServer, log: PostgresqlLog, topic: str) -> None:
    await log.provision(topic, 1)
    await log.publish(topic, 0, keyed("k", *range(5)))
    reader = log.read(topic, 0, 5)
    waiting = asyncio.get_running_loop().create_task(reader.next(1))
    await asyncio.sleep(0.02)
    async with await foreign(server) as connection:
        await connection.execute(
            "DELETE FROM millstream_log_records USING millstream_log_streams s WHERE s.topic = %s AND s.stream = "
            "millstream_log_records.stream AND position > 3",
            (topic,),
        )
    with pytest.raises(PositionGone) as gone:
        await within(waiting)
    assert (gone.value.position, gone.value.earliest) == (5, 0)
    await reader.aclose()


async def test_a_topic_that_is_gone_is_noticed(server: PostgresqlServer, log: PostgresqlLog, topic: str) -> None:
    await log.provision(topic, 1)
    await log.publish(topic, 0, keyed("k", 1))
    async with await foreign(server) as connection:
        for table in ("streams", "topics"):
            await connection.execute(f"DELETE FROM millstream_log_{table} WHERE topic = %s", (topic,))
    with pytest.raises(PositionGone):
        await within(log.read(topic, 0, 1).next(1))
    await log.provision(topic, 1)
    assert await log.publish(topic, 0, keyed("k", 2)) == 1


async def test_a_record_that_somebody_deleted_is_never_passed_over(
    server: PostgresqlServer, log: PostgresqlLog, topic: str
) -> None:
    await log.provision(topic, 1)
    await log.publish(topic, 0, keyed("k", 1, 2, 3, 4))
    async with await foreign(server) as connection:
        await connection.execute(
            "DELETE FROM millstream_log_records USING millstream_log_streams s WHERE s.topic = %s AND s.stream = "
            "millstream_log_records.stream AND position = 3",
            (topic,),
        )
    reader = log.read(topic, 0, 0)
    assert values(await take(reader, 2)) == ["k:1", "k:2"]
    with pytest.raises(PositionGone) as gone:
        await within(reader.next(10))
    assert gone.value.earliest == 3
    assert values(await within(log.read(topic, 0, 3).next(10))) == ["k:4"]


# -- many, large, old ---------------------------------------------------------------------------------------------------


async def test_a_wake_up_from_another_process_is_no_sweep(
    server: PostgresqlServer, log: PostgresqlLog, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SWEEP_SECONDS", 60.0)
    await log.provision(topic, 40)
    async with log_on(server) as other:
        readers = [log.read(topic, partition, 0) for partition in range(40)]
        waiting = [asyncio.get_running_loop().create_task(within(reader.next(10))) for reader in readers]
        for partition in range(40):
            await other.publish(topic, partition, keyed("k", partition))
            assert values(await waiting[partition]) == [f"k:{partition}"]
        for reader in readers:
            await reader.aclose()
        connected = server.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{LOG}'")[0][0]
        assert isinstance(connected, int)
        assert connected <= 2 * (16 + 3)


async def test_large_records_are_read_a_few_at_a_time(log: PostgresqlLog, topic: str) -> None:
    await log.provision(topic, 1)
    size = 1_000_000
    await log.publish(topic, 0, [Record(bytes([number]) * size, "k") for number in range(12)])
    reader, found = log.read(topic, 0, 0), list[Record]()
    while len(found) < 12:
        step = await within(reader.next(500))
        assert len(step) <= READ_BYTES // size + 1
        found += step
    assert [record.value[0] for record in found] == list(range(12))
    await reader.aclose()


@pytest.mark.parametrize("key", ["a\0b", "\ud83e"])
async def test_a_key_that_postgresql_cannot_hold_is_refused(log: PostgresqlLog, topic: str, key: str) -> None:
    await log.provision(topic, 1)
    with pytest.raises(RecordRefused, match="its key holds") as refused:
        await log.publish(topic, 0, [*keyed("é", 1, 2), Record(b"x", key), *keyed("é", 3)])
    assert refused.value.index == 2
    assert values(await everything(log, topic, 0)) == ["é:1", "é:2"]


async def test_records_stay_until_they_are_old_enough(server: PostgresqlServer, topic: str) -> None:
    async with log_on(server, keep_seconds=3_600) as log, await foreign(server) as connection:
        await log.provision(topic, 1)
        await log.publish(topic, 0, keyed("k", 1, 2, 3))
        await log.mark("s", topic, 0, 3)
        await log.retain()
        assert await log.bounds(topic, 0) == Bounds(earliest=0, latest=3)
        await connection.execute(
            "UPDATE millstream_log_records r SET written = written - interval '61 minutes' FROM millstream_log_streams s "
            "WHERE s.topic = %s AND s.stream = r.stream AND position <= 2",
            (topic,),
        )
        await connection.commit()
        await log.retain()
        assert await log.bounds(topic, 0) == Bounds(earliest=2, latest=3)


async def test_two_processes_that_sweep_at_once_delete_once(server: PostgresqlServer, topic: str) -> None:
    async with log_on(server) as log, log_on(server) as other:
        await log.retain()  # what other tests left
        await log.provision(topic, 1)
        await log.mark("s", topic, 0, 0)
        for _ in range(3):
            await log.publish(topic, 0, keyed("k", *range(4_000)))
        await log.mark("s", topic, 0, 11_999)
        async with asyncio.TaskGroup() as group:
            sweeps = [group.create_task(one.retain()) for one in (log, other)]
        assert sum(sweep.result() for sweep in sweeps) == 11_999
        assert values(await everything(log, topic, 0)) == ["k:3999"]
