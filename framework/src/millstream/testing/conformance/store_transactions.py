"""Transactions: all or nothing, alone or together with others, and durable when the answer comes (rules T1, T2)."""

# ruff: noqa: S608 - the name of a table is the test's own

from __future__ import annotations

import asyncio

import pytest

from ...errors import BadStatement, Conflict, MillstreamError, Refused
from ...ports.store import Session, Store
from .store_case import StoreCase, insert, rows_of
from .transport_case import within

__all__ = ["Transactions"]


class OwnError(Exception):
    """What a handler may raise."""


class Transactions(StoreCase):
    async def test_a_transaction_returns_what_its_work_returned(self, store: Store, table: str) -> None:
        """The result comes once the commit is durable, and a read right after it sees the rows."""

        async def work(session: Session) -> str:
            await insert(table, "a", 1)(session)
            return "result"

        assert await store.transact(work) == "result"
        assert await rows_of(store, table) == [("a", 1)]

    async def test_an_exception_undoes_everything_and_is_raised(self, store: Store, table: str) -> None:
        """An exception from the work undoes all it did and reaches the caller as the very same object."""
        for error in (OwnError("mine"), Refused("no"), asyncio.CancelledError("by hand")):

            async def work(session: Session, error: BaseException = error) -> None:
                await insert(table, "a")(session)
                raise error

            with pytest.raises(type(error)) as raised:
                await store.transact(work)
            assert raised.value is error
        assert await rows_of(store, table) == []

    async def test_a_broken_constraint_is_a_conflict(self, store: Store, table: str) -> None:
        """What a constraint refuses is Conflict, not a driver's error; the transaction is undone."""
        await store.transact(insert(table, "a"))
        for name, n in (("a", 1), ("b", -1)):

            async def work(session: Session, name: str = name, n: int = n) -> None:
                await insert(table, f"before {name}")(session)
                await insert(table, name, n)(session)

            with pytest.raises(Conflict):
                await store.transact(work)
        assert await rows_of(store, table) == [("a", 0)]

    async def test_wrong_sql_is_a_bad_statement(self, store: Store, table: str) -> None:
        """SQL that the store cannot run is BadStatement wherever it is given."""

        async def work(session: Session) -> None:
            await session.execute("SELECT nothing FROM nowhere")

        with pytest.raises(BadStatement):
            await store.transact(work)
        with pytest.raises(BadStatement):
            await store.query("SELECT nothing FROM nowhere")
        with pytest.raises(BadStatement):
            await store.scan("SELEKT 1")
        with pytest.raises(BadStatement):
            await store.script("SELEKT 1;")
        await store.transact(insert(table, "still works"))

    async def test_savepoints_nest(self, store: Store, table: str) -> None:
        """C3: an inner unit is undone alone, and an outer one takes what its inner ones kept with it."""

        async def work(session: Session) -> None:
            await insert(table, "outermost")(session)
            await session.savepoint()
            await insert(table, "kept")(session)
            await session.savepoint()
            await insert(table, "undone")(session)
            await session.rollback()
            await session.release()
            await session.savepoint()
            await insert(table, "taken along")(session)
            await session.savepoint()
            await insert(table, "released inside")(session)
            await session.release()
            await session.rollback()
            await insert(table, "last")(session)

        await store.transact(work)
        assert [name for name, _ in await rows_of(store, table)] == ["outermost", "kept", "last"]

    async def test_a_failed_statement_costs_its_unit_only(self, store: Store, table: str) -> None:
        """C3: after a statement failed inside a unit, rolling that unit back lets the transaction go on."""

        async def work(session: Session) -> None:
            await insert(table, "a")(session)
            for _ in range(3):
                await session.savepoint()
                await insert(table, "b")(session)
                with pytest.raises(Conflict):
                    await insert(table, "a")(session)
                await session.rollback()
            await insert(table, "c")(session)

        await store.transact(work)
        assert [name for name, _ in await rows_of(store, table)] == ["a", "c"]

    async def test_a_failing_member_costs_the_others_nothing(self, store: Store, table: str) -> None:
        """T2: transactions that share a commit fail alone."""

        async def work(session: Session, number: int) -> int:
            await insert(table, f"row {number}", number)(session)
            if number % 3 == 0:
                raise OwnError(number)
            if number % 7 == 0:
                await insert(table, f"row {number}")(session)
            return number

        tasks = [
            asyncio.get_running_loop().create_task(store.transact(lambda session, n=number: work(session, n)))
            for number in range(100)
        ]
        await within(asyncio.wait(tasks))
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                assert isinstance(task.exception(), OwnError)
            elif number % 7 == 0:
                assert isinstance(task.exception(), Conflict)
            else:
                assert task.result() == number
        kept = {n for _, n in await rows_of(store, table)}
        assert kept == {number for number in range(100) if number % 3 and number % 7}

    async def test_rolled_back_rows_are_never_seen(self, store: Store, table: str) -> None:
        """R1: readers see committed rows only, on every connection and at every moment."""
        running = True

        async def failing(number: int) -> None:
            async def work(session: Session) -> None:
                await insert(table, f"bad {number}")(session)
                session.notify(table)
                raise OwnError

            with pytest.raises(OwnError):
                await store.transact(work)

        async def watch() -> int:
            looks = 0
            while running:
                for rows in (await rows_of(store, table), await store.scan(f"SELECT name, n FROM {table}")):
                    assert not [name for name, _ in rows if name.startswith("bad")]
                looks += 1
                await asyncio.sleep(0)
            return looks

        watching = asyncio.get_running_loop().create_task(watch())
        for turn in range(20):
            async with asyncio.TaskGroup() as group:
                for number in range(5):
                    group.create_task(failing(turn * 5 + number))
                group.create_task(store.transact(insert(table, f"good {turn}")))
        running = False
        assert await within(watching) > 0
        assert len(await rows_of(store, table)) == 20

    async def test_row_order_is_commit_order_under_a_slot(self, store: Store, table: str) -> None:
        """T4: writers that hold the same slot become visible in the order of their row ids, also under rollbacks."""
        seen: list[int] = []

        async def writer(name: int) -> None:
            async def work(session: Session, number: int) -> None:
                await session.lock_slots([3, 77])
                await insert(table, f"{name}/{number}")(session)
                if (name + number) % 5 == 0:
                    raise OwnError

            for number in range(10):
                try:
                    await store.transact(lambda session, n=number: work(session, n))
                except OwnError:
                    continue

        def look(ids: list[int]) -> None:
            assert ids[: len(seen)] == seen, "a row became visible below one that was visible before"
            seen[:] = ids

        async with asyncio.TaskGroup() as group:
            writers = [group.create_task(writer(name)) for name in range(20)]
            while not all(task.done() for task in writers):
                look([id_ for (id_,) in await store.query(f"SELECT id FROM {table} ORDER BY id")])
                await asyncio.sleep(0)
        assert len(await rows_of(store, table)) == 160

    async def test_work_cannot_end_its_transaction(self, store: Store, table: str) -> None:
        """T2: COMMIT or ROLLBACK in the SQL of the work is an error, and nothing of the transaction is kept."""
        for sql in ("COMMIT", "ROLLBACK", "END"):

            async def work(session: Session, sql: str = sql) -> None:
                await insert(table, sql)(session)
                await session.execute(sql)
                await insert(table, f"behind {sql}")(session)

            with pytest.raises(MillstreamError):
                await store.transact(work)
        await store.transact(insert(table, "still works"))
        assert await rows_of(store, table) == [("still works", 0)]

    async def test_a_session_ends_with_its_transaction(self, store: Store, table: str) -> None:
        """A session that work kept is of no use afterwards: it cannot write into somebody else's transaction."""
        kept: list[Session] = []

        async def work(session: Session) -> None:
            kept.append(session)

        await store.transact(work)
        with pytest.raises(MillstreamError):
            await kept[0].execute(f"INSERT INTO {table} (name) VALUES ('late')")
        with pytest.raises(MillstreamError):
            await kept[0].savepoint()
        assert await rows_of(store, table) == []
