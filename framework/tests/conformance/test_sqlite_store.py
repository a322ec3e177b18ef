"""The SQLite store keeps the store port's promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest
from millstream.errors import BadStatement, StoreUnavailable
from millstream.ports.store import Session, Store
from millstream.sqlite.file import SqliteFile
from millstream.stores.sqlite import SqliteStore
from millstream.testing.conformance.store import StoreConformance
from millstream.testing.conformance.store_case import MakeStore


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakeStore:
        return lambda: SqliteStore(tmp_path / "service.db")

    @asynccontextmanager
    async def full_disk(self, store: Store) -> AsyncIterator[None]:
        assert isinstance(store, SqliteStore)
        writer = store.file._writer  # the setting belongs to this connection
        unlimited = writer.pragma("max_page_count")
        writer.pragma("max_page_count", writer.pragma("page_count"))
        yield
        writer.pragma("max_page_count", unlimited)


async def test_a_full_disk_fails_every_member_of_the_group(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "service.db") as store:
        await store.script("CREATE TABLE t (id INTEGER PRIMARY KEY, data TEXT)")
        ran: list[int] = []

        async def member(session: Session, number: int, size: int) -> None:
            ran.append(number)
            await session.execute("INSERT INTO t VALUES (?, ?)", number, "x" * size)

        sizes = [10, 10, 4_000_000, 10]
        async with TestSqliteStore().full_disk(store):
            tasks = [
                asyncio.get_running_loop().create_task(store.transact(lambda session, n=n, s=s: member(session, n, s)))
                for n, s in enumerate(sizes)
            ]
            await asyncio.wait(tasks)
            assert ran == [0, 1, 2, 3]
            for task in tasks[:3]:  # they shared the transaction that the engine ended
                assert isinstance(task.exception(), StoreUnavailable)
            assert tasks[3].exception() is None  # it came in the next one
            assert await store.query("SELECT id FROM t") == [(3,)]
        await store.transact(lambda session: member(session, 9, 4_000_000))
        assert await store.query("SELECT id FROM t") == [(3,), (9,)]


async def test_a_weaker_setting_is_read_back(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "service.db", synchronous="NORMAL") as store:
        durability = await store.durability()
        assert durability.process_crash
        assert not durability.power_loss
        assert "FULL" in durability.why_not


async def test_a_hook_of_a_failing_member_is_never_called(tmp_path: Path) -> None:
    called: list[str] = []
    async with SqliteFile(tmp_path / "file.db") as file:

        def member(connection: apsw.Connection, name: str) -> None:
            file.after_commit(lambda: called.append(name))
            connection.execute("CREATE TABLE " + name)  # no columns: a syntax error

        def good(connection: apsw.Connection) -> None:
            file.after_commit(lambda: called.append("good"))
            connection.execute("CREATE TABLE good (id INTEGER)")

        tasks = [file.write(w) for w in (lambda c: member(c, "a"), good, lambda c: member(c, "b"))]
        await asyncio.wait(tasks)
        assert [task.exception() is None for task in tasks] == [False, True, False]
        assert called == ["good"]


@pytest.mark.parametrize("sql", ["COMMIT", "  rollback;", "SAVEPOINT x", "PRAGMA synchronous=OFF", "begin"])
async def test_statements_that_would_split_the_shared_transaction_are_refused_by_name(sql: str, tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "store.db") as store:
        await store.script("CREATE TABLE things (id INTEGER)")

        async def work(session: Session) -> None:
            await session.execute("INSERT INTO things VALUES (1)")
            await session.execute(sql)

        with pytest.raises(BadStatement, match="inside a transaction"):
            await store.transact(work)
        assert await store.query("SELECT * FROM things") == []
