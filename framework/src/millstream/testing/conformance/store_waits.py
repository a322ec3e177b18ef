"""Waiting and giving up: foreign waits, cancellation, and reads that take long (rules T1, T3)."""

# ruff: noqa: S608 - the name of a table is the test's own

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable

import pytest

from ...errors import ForeignWait
from ...ports.store import Session, Store
from .store_case import StoreCase, insert, rows_of
from .transport_case import PATIENCE, within

__all__ = ["Waits"]


class Waits(StoreCase):
    async def test_a_foreign_wait_names_its_line(self, store: Store, table: str) -> None:
        """T3: waiting for anything but the session is ForeignWait with file and line, and undoes the transaction."""
        line = 0

        async def work(session: Session) -> None:
            nonlocal line
            await insert(table, "a")(session)
            line = _line() + 1
            await asyncio.sleep(0.001)

        with pytest.raises(ForeignWait) as caught:
            await within(store.transact(work))
        assert caught.value.where.endswith(f"store_waits.py:{line}")
        assert "sleep" in caught.value.waiting_for
        assert await rows_of(store, table) == []
        await store.transact(insert(table, "b"))

    async def test_every_kind_of_foreign_wait_is_caught(self, store: Store, table: str) -> None:
        """T3: a future, an event, a queue, a lock that is held, or another transaction: none of them hangs the store."""
        lock = asyncio.Lock()
        await lock.acquire()
        waits: list[Callable[[], Awaitable[object]]] = [
            lambda: asyncio.get_running_loop().create_future(),
            lambda: asyncio.Event().wait(),
            lambda: asyncio.Queue[None]().get(),
            lock.acquire,
            lambda: store.transact(insert(table, "inner")),
        ]
        for wait in waits:

            async def work(session: Session, wait: Callable[[], Awaitable[object]] = wait) -> None:
                await insert(table, "outer")(session)
                await wait()

            with pytest.raises(ForeignWait):
                await within(store.transact(work))
        assert "outer" not in [name for name, _ in await rows_of(store, table)]

    async def test_swallowing_a_foreign_wait_does_not_commit(self, store: Store, table: str) -> None:
        """T3: work that catches everything is still undone: its wait has torn the transaction."""

        async def work(session: Session) -> str:
            try:
                await insert(table, "a")(session)
                await asyncio.sleep(0.001)
            except BaseException:  # noqa: BLE001, S110 - the careless code under test
                pass
            return "fine"

        with pytest.raises(ForeignWait):
            await within(store.transact(work))
        assert await rows_of(store, table) == []

    async def test_cancelled_before_it_started_it_never_runs(self, store: Store, table: str) -> None:
        """T2: a transaction that is cancelled while it waits for its turn never runs and leaves nothing."""
        for turns in range(6):
            started: list[int] = []

            async def work(session: Session, turns: int = turns, started: list[int] = started) -> None:
                started.append(turns)
                await insert(table, f"a {turns}")(session)

            task = asyncio.get_running_loop().create_task(store.transact(work))
            for _ in range(turns):
                await asyncio.sleep(0)
            if started:
                await within(asyncio.wait([task]))
                return
            task.cancel()
            await within(asyncio.wait([task]))
            await store.transact(insert(table, f"b {turns}"))
            assert task.cancelled()
            assert started == []
            assert f"a {turns}" not in [name for name, _ in await rows_of(store, table)]

    async def test_started_means_committed_whenever_it_is_cancelled(self, store: Store, table: str) -> None:
        """T2: cancelled at any moment, work that started commits whole, and work that did not start never runs."""
        chance, started = random.Random(2), set[str]()

        async def work(session: Session, name: str) -> None:
            started.add(name)
            await insert(table, f"{name} first")(session)
            await insert(table, f"{name} second")(session)

        for turn in range(25):
            tasks = [
                asyncio.get_running_loop().create_task(
                    store.transact(lambda session, n=f"{turn}/{k}": work(session, n))
                )
                for k in range(4)
            ]
            for task in tasks:
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                task.cancel()
            await within(asyncio.wait(tasks))
        await store.transact(insert(table, "behind them all"))
        async with asyncio.timeout(PATIENCE):
            while len(await rows_of(store, table)) < 2 * len(started) + 1:  # noqa: ASYNC110 - the store is waited for
                await asyncio.sleep(0.001)
        names = {name for name, _ in await rows_of(store, table)} - {"behind them all"}
        assert names == {f"{name} {part}" for name in started for part in ("first", "second")}

    async def test_a_long_scan_delays_nobody(self, store: Store, table: str) -> None:
        """T1: transactions commit while a scan runs, and it sees what was committed before it."""
        await store.transact(insert(table, "a"))
        count = (
            "WITH RECURSIVE numbers (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM numbers WHERE x < ?) "
            f"SELECT count(*), (SELECT count(*) FROM {table} WHERE name = 'a') FROM numbers"
        )
        scanning = asyncio.get_running_loop().create_task(store.scan(count, 3_000_000))
        await asyncio.sleep(0)
        written = 0
        while not scanning.done():
            await within(store.transact(insert(table, f"row {written}")))
            written += 1
        assert await scanning == [(3_000_000, 1)]
        assert written >= 5, "a scan that held the writer up would have let one through at most"

    async def test_a_scan_does_not_write(self, store: Store, table: str) -> None:
        """Reads outside of a transaction cannot change anything."""
        for read in (store.query, store.scan):
            with pytest.raises(Exception):  # noqa: B017, PT011 - which error is the engine's affair
                await read(f"INSERT INTO {table} (name) VALUES ('sneaked in') RETURNING id")
        assert await rows_of(store, table) == []


def _line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno
