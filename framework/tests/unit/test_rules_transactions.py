"""Rules T1 to T3: how a transaction runs, and what it may wait for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from millstream import Event
from millstream.delivery.outbox import Origin
from millstream.delivery.timers import ScheduleRunner, Ticking
from millstream.errors import ForeignWait, StoreUnavailable
from millstream.ports.instrumentation import Silent


class Thing(Event, topic="things", key="key"):
    key: str
    value: int = 0


class Made(Event, topic="made", key="key"):
    key: str
    value: int = 0


async def test_t1_statements_stay_on_the_loops_thread_and_commit_leaves_it(kernel: Any) -> None:
    threads: dict[str, set[int]] = {}

    def trace(_cursor: Any, sql: str, _bindings: Any) -> bool:
        threads.setdefault(sql.split(maxsplit=1)[0], set()).add(threading.get_ident())
        return True

    kernel.store.file._writer.exec_trace = trace
    await asyncio.gather(*(kernel.run("INSERT INTO applied (key) VALUES (?)", str(n)) for n in range(5)))
    kernel.store.file._writer.exec_trace = None
    here = threading.get_ident()
    assert threads["INSERT"] == {here}
    assert here not in threads["COMMIT"]


async def test_t1_transactions_that_are_ready_together_share_one_commit(kernel: Any) -> None:
    commits = 0

    def trace(_cursor: Any, sql: str, _bindings: Any) -> bool:
        nonlocal commits
        commits += sql == "COMMIT"
        return True

    kernel.store.file._writer.exec_trace = trace
    await asyncio.gather(*(kernel.run("INSERT INTO applied (key) VALUES (?)", str(n)) for n in range(20)))
    kernel.store.file._writer.exec_trace = None
    assert commits < 5


async def test_t2_one_that_fails_costs_the_others_of_its_group_nothing(kernel: Any) -> None:
    async def fail(session: Any) -> None:
        await session.execute("INSERT INTO applied (key) VALUES ('bad')")
        raise ValueError

    results = await asyncio.gather(
        kernel.run("INSERT INTO applied (key) VALUES ('a')"),
        kernel.store.transact(fail),
        kernel.run("INSERT INTO applied (key) VALUES ('b')"),
        return_exceptions=True,
    )
    assert isinstance(results[1], ValueError)
    assert await kernel.rows("SELECT key FROM applied ORDER BY n") == [("a",), ("b",)]


async def test_t2_who_only_read_through_the_writer_answers_after_the_commit_too(kernel: Any) -> None:
    async def read(session: Any) -> list[Any]:
        return await session.fetch("SELECT key FROM applied")

    writer = kernel.store.file._writer
    writer.set_commit_hook(lambda: True)  # the disk refuses
    write, seen = await asyncio.gather(
        kernel.run("INSERT INTO applied (key) VALUES ('a')"), kernel.store.transact(read), return_exceptions=True
    )
    writer.set_commit_hook(None)
    assert isinstance(write, StoreUnavailable)
    assert isinstance(seen, StoreUnavailable), "it has seen a row that never was"


async def test_t2_cancelling_after_the_work_ran_still_commits(kernel: Any) -> None:
    ran = asyncio.Event()

    async def work(session: Any) -> None:
        await session.execute("INSERT INTO applied (key) VALUES ('a')")
        ran.set()

    task = asyncio.get_running_loop().create_task(kernel.store.transact(work))
    await ran.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await kernel.run("INSERT INTO applied (key) VALUES ('b')")
    assert await kernel.rows("SELECT key FROM applied ORDER BY n") == [("a",), ("b",)]


async def test_t3_waiting_for_something_else_tears_the_transaction_and_names_the_line(kernel: Any) -> None:
    async def handle(event: Thing, tx: Any) -> None:
        await tx.execute("INSERT INTO applied (key) VALUES (?)", event.key)
        await asyncio.sleep(0)

    sub = await kernel.subscribe(handle, Thing)
    await kernel.append(Thing("a"))
    c = await kernel.hold(sub)
    with pytest.raises(ForeignWait, match=r"test_rules_transactions\.py:\d+"):
        await kernel.batch(c)
    assert await kernel.rows("SELECT * FROM applied") == []


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("swallow", [False, True])
async def test_t3_a_foreign_wait_makes_its_message_a_dead_letter_and_the_others_go_on(
    kernel: Any, batched: bool, swallow: bool
) -> None:
    async def one(event: Thing, tx: Any) -> None:
        await tx.execute("INSERT INTO applied (key) VALUES (?)", event.key)
        try:
            if event.value < 0:
                await asyncio.sleep(0)
        except ForeignWait:
            if not swallow:
                raise

    async def many(events: list[Thing], tx: Any) -> None:
        for event in events:
            await one(event, tx)

    sub = await kernel.subscribe(many if batched else one, Thing, batched=batched)
    await kernel.append(Thing("a"), Thing("b", -1), Thing("c"), Thing("b", 2))
    c = await kernel.hold(sub)
    await kernel.consume(c, "SELECT position = 4 FROM millstream_claims")
    assert await kernel.rows("SELECT key FROM applied ORDER BY n") == [("a",), ("c",)]
    (letter,) = await kernel.rows("SELECT key, reason, error FROM millstream_dead_letters")
    assert letter[:2] == ("b", "failed")
    assert "ForeignWait" in letter[2]


async def test_t3_a_foreign_wait_on_the_parked_path_blames_its_message_alone(kernel: Any) -> None:
    async def handle(event: Thing, tx: Any) -> None:
        if event.value < 0:
            await asyncio.sleep(0)
        await tx.execute("INSERT INTO applied (key, value) VALUES (?, ?)", event.key, event.value)

    sub = await kernel.subscribe(handle, Thing, after_dead_letter="go_on")
    await kernel.append(*(Thing("a", value) for value in (1, -2, 3)), *(Thing("b", value) for value in (4, 5)))
    for key in "ab":
        await kernel.run("INSERT INTO millstream_lanes VALUES (?, 0, '', ?, 0, 0)", sub.id, key)
    c = await kernel.hold(sub)
    await kernel.consume(c, "SELECT COUNT(*) = 4 FROM applied")
    assert await kernel.rows("SELECT value FROM applied WHERE key = 'a' ORDER BY n") == [(1,), (3,)]
    assert await kernel.rows("SELECT value FROM applied WHERE key = 'b' ORDER BY n") == [(4,), (5,)]
    assert await kernel.rows("SELECT attempts, reason FROM millstream_dead_letters") == [(1, "failed")]


async def test_t3_a_schedule_that_waits_is_logged_and_ticks_again_at_its_next_time(kernel: Any) -> None:
    ticks = 0

    async def handle(tx: Any) -> None:
        nonlocal ticks
        ticks += 1
        await asyncio.sleep(0)

    runner = ScheduleRunner(
        Ticking("tick", 10.0, handle),
        kernel.store,
        Origin("/shop", kernel.ids),
        clock=kernel.clock,
        instrumentation=Silent(),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run())
        for expected in (1, 2):
            await kernel.wait_for(lambda n=expected: ticks == n)
            await kernel.wait_for(lambda: kernel.clock.waiting > 0)
            await kernel.clock.advance(10)
        runner.stop()
