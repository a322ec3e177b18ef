"""One effect for one key, on a real store: twins, waiting, refusals, what is kept and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path

import pytest
from millstream import Caller, Event, Refused, Tx
from millstream.clock import Handle, SystemClock
from millstream.delivery.idempotency import (
    IDEMPOTENCY_SCHEMA,
    Done,
    Idempotency,
    KeyInUse,
    KeyMissing,
    KeyReused,
    Once,
    StoredReply,
    check_key,
    fingerprint_of,
    purge,
    scope_of,
)
from millstream.delivery.outbox import Origin, Outbox
from millstream.errors import MillstreamError, StoreUnavailable
from millstream.ids import Ids
from millstream.ports.store import Session
from millstream.stores.sqlite import SqliteStore

KERNEL = (files("millstream.delivery") / "sql" / "0001_kernel.sql").read_text()
if "millstream_idempotency" not in KERNEL:
    KERNEL += IDEMPOTENCY_SCHEMA
ORIGIN = Origin("shop", Ids())
ONCE = Once("scope", "key", b"print")


class Placed(Event, topic="orders", key="id"):
    id: str


class HandClock(SystemClock):
    """Timers go off when the test says so."""

    def __init__(self) -> None:
        self.at = 0.0
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.at

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        entry, timers = (self.at + delay, callback), self.timers
        timers.append(entry)

        class Timer:
            def cancel(self) -> None:
                if entry in timers:
                    timers.remove(entry)

        return Timer()

    def advance(self, seconds: float) -> None:
        self.at += seconds
        for entry in [e for e in self.timers if e[0] <= self.at]:
            self.timers.remove(entry)
            entry[1]()


class Bench:
    """A store with a table of work done, and work that writes to it."""

    def __init__(self, store: SqliteStore, clock: HandClock) -> None:
        self.store = store
        self.clock = clock
        self.idempotency = Idempotency(store, clock)
        self.runs = 0

    async def work(self, session: Session) -> Done:
        self.runs += 1
        await session.execute("INSERT INTO work VALUES (?)", self.runs)
        return Done(StoredReply(201, f"reply {self.runs}".encode()), Outbox(ORIGIN))

    async def run(self, once: Once = ONCE, work: object = None) -> tuple[StoredReply, bool]:
        return await self.idempotency.run(once, work or self.work, refusal)  # pyright: ignore[reportArgumentType]

    async def count(self, table: str) -> int:
        return (await self.store.query(f"SELECT count(*) FROM {table}"))[0][0]


def refusal(error: MillstreamError) -> StoredReply | None:
    return StoredReply(409, str(error).encode()) if isinstance(error, Refused) else None


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with SqliteStore(tmp_path / "shop.db") as store:
        await store.script(KERNEL + "CREATE TABLE work (n INTEGER);")
        yield Bench(store, HandClock())


def test_the_migration_makes_the_table_that_the_code_declares() -> None:
    def statements(sql: str) -> str:
        return " ".join(" ".join(line.partition("--")[0] for line in sql.splitlines()).split())

    migration = files("millstream.delivery") / "sql" / "0002_idempotency.sql"
    assert statements(migration.read_text()) == statements(IDEMPOTENCY_SCHEMA)


async def test_a_repeat_gets_the_bytes_of_the_first(bench: Bench) -> None:
    assert await bench.run() == (StoredReply(201, b"reply 1"), False)
    assert await bench.run() == (StoredReply(201, b"reply 1"), True)
    assert [bench.runs, await bench.count("work")] == [1, 1]


async def test_a_new_process_finds_the_record_in_the_table(bench: Bench) -> None:
    await bench.run()
    bench.idempotency = Idempotency(bench.store, bench.clock)
    assert await bench.run() == (StoredReply(201, b"reply 1"), True)


async def test_twins_of_two_processes_are_decided_by_the_table(bench: Bench) -> None:
    others = [Idempotency(bench.store, bench.clock) for _ in range(20)]
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(other.run(ONCE, bench.work, refusal)) for other in others]
    assert {task.result()[0].body for task in asked} == {b"reply 1"}
    assert await bench.count("work") == 1


async def test_the_key_stands_for_one_request(bench: Bench) -> None:
    await bench.run()
    other = Once("scope", "key", b"another")
    with pytest.raises(KeyReused):
        await bench.run(other)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(bench.run(Once("scope", "k2", b"one")))
        twin = group.create_task(_error_of(bench.run(Once("scope", "k2", b"two"))))
    assert first.result()[0].status == 201
    assert isinstance(twin.result(), KeyReused)


async def test_a_refusal_keeps_its_record_and_none_of_its_rows(bench: Bench) -> None:
    async def refuse(session: Session) -> Done:
        await bench.work(session)
        raise Refused("no")

    assert await bench.run(work=refuse) == (StoredReply(409, b"no"), False)
    assert await bench.run(work=refuse) == (StoredReply(409, b"no"), True)
    assert [bench.runs, await bench.count("work"), await bench.count("millstream_idempotency")] == [1, 0, 1]


async def test_a_failure_keeps_nothing_and_a_waiting_twin_does_the_work(bench: Bench) -> None:
    async def fail_once(session: Session) -> Done:
        if bench.runs == 0:
            bench.runs += 1
            raise StoreUnavailable("away")
        return await bench.work(session)

    async with asyncio.TaskGroup() as group:
        first = group.create_task(_error_of(bench.run(work=fail_once)))
        twins = [group.create_task(bench.run(work=fail_once)) for _ in range(3)]
    assert isinstance(first.result(), StoreUnavailable)
    assert sorted(twin.result()[1] for twin in twins) == [False, True, True]
    assert await bench.count("work") == 1


async def test_a_reply_that_must_not_be_repeated_commits_without_a_record(bench: Bench) -> None:
    async def busy(session: Session) -> Done:
        done = await bench.work(session)
        return Done(StoredReply(429, b"slow down"), done.outbox, keep=False)

    await bench.run(work=busy)
    assert [await bench.count("work"), await bench.count("millstream_idempotency")] == [1, 0]
    assert (await bench.run())[0].body == b"reply 2"


async def test_the_wait_for_the_first_is_bounded(bench: Bench) -> None:
    never = bench.idempotency
    never._under_way[("scope", "key")] = []  # a first that does not end
    async with asyncio.TaskGroup() as group:
        twin = group.create_task(_error_of(bench.run(Once("scope", "key", b"print", wait=5.0))))
        await asyncio.sleep(0)
        bench.clock.advance(4.9)
        await asyncio.sleep(0)
        assert not twin.done()
        bench.clock.advance(0.2)
    assert isinstance(twin.result(), KeyInUse)
    assert bench.runs == 0


async def test_a_cancelled_first_lets_its_twin_find_what_it_committed(bench: Bench) -> None:
    started = asyncio.Event()

    async def work(session: Session) -> Done:
        started.set()
        return await bench.work(session)

    async with asyncio.TaskGroup() as group:
        first = group.create_task(bench.run(work=work))
        twin = group.create_task(bench.run(work=work))
        await started.wait()
        first.cancel()
    assert first.cancelled()
    assert twin.result() == (StoredReply(201, b"reply 1"), True)
    assert await bench.count("work") == 1


async def test_events_of_the_work_leave_with_the_record(bench: Bench) -> None:
    async def publish(session: Session) -> Done:
        outbox = Outbox(ORIGIN)
        Tx(session, outbox, 0, Caller("alice")).publish(Placed("o"))
        return Done(StoredReply(201, b"ok"), outbox)

    await bench.run(work=publish)
    await bench.run(work=publish)
    assert await bench.count("millstream_outbox") == 1


async def test_purge_forgets_old_records_in_bounded_steps(bench: Bench) -> None:
    for n in range(5):
        await bench.run(Once("scope", str(n), b"print"))
    later = bench.clock.now_us() + 1
    assert await bench.store.transact(lambda session: purge(session, later - 10**9, 10)) == 0
    assert await bench.store.transact(lambda session: purge(session, later, 3)) == 3
    assert await bench.store.transact(lambda session: purge(session, later, 3)) == 2


def test_scopes_and_fingerprints_tell_apart_what_reads_alike() -> None:
    def scope(subject: str, tenant: str | None) -> str:
        return scope_of("POST /orders", Caller(subject, tenant=tenant))

    assert len({scope("ab", None), scope("b", "a"), scope("", "ab"), scope("1:ab", None), scope("a", "1:b")}) == 5
    assert fingerprint_of(b"a", b"bc") != fingerprint_of(b"ab", b"c")
    assert fingerprint_of(b"a") == fingerprint_of(b"a")


@pytest.mark.parametrize("key", ["k", "a b", "~" * 255, "saga/step/3"])
def test_printable_ascii_of_up_to_255_characters_is_a_key(key: str) -> None:
    assert check_key(key, "the header") == key


@pytest.mark.parametrize("key", [None, "", "a" * 256, "a\nb", "a\x00", "é"])
def test_anything_else_is_none(key: str | None) -> None:
    with pytest.raises(KeyMissing, match="the header"):
        check_key(key, "the header")


async def _error_of(call: object) -> BaseException | None:
    try:
        await call  # type: ignore[misc] - any awaitable
    except MillstreamError as error:
        return error
    return None
