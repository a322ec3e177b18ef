"""Statements: parameters, counts, what is queued, and inserts that say what was new (rule T5)."""

# ruff: noqa: S608 - the name of a table is the test's own

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ...errors import BadStatement, Conflict, MillstreamError, Refused
from ...ports.store import Row, Session, Store
from .store_case import StoreCase, insert, rows_of

__all__ = ["Statements"]


class Statements(StoreCase):
    async def test_parameters_and_rows_keep_their_types(self, store: Store, table: str) -> None:
        """64-bit integers, floats, text of any script, bytes and NULL go in and come out unchanged."""
        blob = {"sqlite": "BLOB", "postgresql": "BYTEA"}[store.capabilities.dialect]
        number = {"sqlite": "REAL", "postgresql": "DOUBLE PRECISION"}[store.capabilities.dialect]
        await store.script(f"CREATE TABLE {table}_types (a BIGINT, b {number}, c TEXT, d {blob}, e TEXT)")
        row = (2**63 - 1, 0.1, "Ωmega 日本 🧾 'quoted' ?", bytes(range(256)), None)

        async def work(session: Session) -> Row | None:
            await session.execute(f"INSERT INTO {table}_types VALUES (?, ?, ?, ?, ?)", *row)
            return await session.fetch_one(f"SELECT a, b, c, d, e FROM {table}_types WHERE a = ?", row[0])

        assert await store.transact(work) == row
        assert await store.query(f"SELECT a, b, c, d, e FROM {table}_types") == [row]
        assert await store.scan(f"SELECT a, b, c, d, e FROM {table}_types WHERE a = ?", row[0]) == [row]

    async def test_a_question_mark_in_a_literal_is_no_parameter(self, store: Store, table: str) -> None:
        """Only a `?` outside of literals marks a parameter; a percent sign means nothing."""
        rows = await store.query(f"SELECT 'why?', '100%', name FROM {table} WHERE name = ?", "x")
        assert rows == []
        await store.transact(insert(table, "x"))
        assert await store.query(f"SELECT 'why?', '%s', name FROM {table} WHERE name = ?", "x") == [("why?", "%s", "x")]

    async def test_execute_counts_changed_rows(self, store: Store, table: str) -> None:
        """`execute` returns how many rows the statement changed: none for a read or for a write that matches nothing."""

        async def work(session: Session) -> list[int]:
            await insert(table, "a", 1)(session)
            await insert(table, "b", 1)(session)
            return [
                await session.execute(f"UPDATE {table} SET n = 2"),
                await session.execute(f"UPDATE {table} SET n = 3 WHERE name = ?", "nobody"),
                await session.execute(f"INSERT INTO {table} (name) VALUES ('a') ON CONFLICT DO NOTHING"),
                await session.execute(f"DELETE FROM {table} WHERE name = 'a'"),
                await session.execute(f"SELECT name FROM {table}"),
            ]

        assert await store.transact(work) == [2, 0, 0, 1, 0]

    async def test_fetch_returns_rows_and_returning_too(self, store: Store, table: str) -> None:
        """`fetch` returns all rows, of RETURNING too; `fetch_one` the first, or None."""

        async def work(session: Session) -> None:
            sql = f"INSERT INTO {table} (name, n) VALUES (?, ?), (?, ?) RETURNING name, n"
            assert await session.fetch(sql, "a", 1, "b", 2) == [("a", 1), ("b", 2)]
            assert await session.fetch_one(f"SELECT name FROM {table} ORDER BY name DESC") == ("b",)
            assert await session.fetch_one(f"SELECT name FROM {table} WHERE n = ?", 9) is None
            upsert = f"INSERT INTO {table} (name, n) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = excluded.n"
            assert await session.execute(upsert, "a", 5) == 1

        await store.transact(work)
        assert await rows_of(store, table) == [("a", 5), ("b", 2)]

    async def test_execute_many_keeps_the_order(self, store: Store, table: str) -> None:
        """`execute_many` runs the statement for each row, in order; row ids follow."""
        names = [f"{number:04}" for number in reversed(range(1_000))]

        async def work(session: Session) -> None:
            await session.execute_many(f"INSERT INTO {table} (name, n) VALUES (?, ?)", [])
            await session.execute_many(f"INSERT INTO {table} (name, n) VALUES (?, ?)", [(name, 1) for name in names])

        await store.transact(work)
        assert [name for name, _ in await rows_of(store, table)] == names

    async def test_execute_many_runs_for_every_row_with_returning_too(self, store: Store, table: str) -> None:
        """`execute_many` reads no result, and a statement that has one still runs for each row."""
        sql = f"INSERT INTO {table} (name) VALUES (?) RETURNING id"
        await store.transact(lambda session: session.execute_many(sql, [("a",), ("b",), ("c",)]))
        assert [name for name, _ in await rows_of(store, table)] == ["a", "b", "c"]

    async def test_appended_rows_come_last_and_in_order(self, store: Store, table: str) -> None:
        """T4: `append` writes behind everything else of the transaction, which does not see its rows; in their order."""
        names = [f"{number:04}" for number in reversed(range(1_000))]

        async def work(session: Session) -> list[Row]:
            session.append(table, ("name", "n"), [(name, 1) for name in names[:500]])
            session.append(table, ("name", "n"), [])
            session.append(table, ("name", "n"), [(name, 1) for name in names[500:]])
            seen = await session.fetch(f"SELECT name FROM {table}")
            await session.execute(f"INSERT INTO {table} (name, n) VALUES (?, ?)", "first", 1)
            return seen

        assert await store.transact(work) == []
        assert [name for name, _ in await rows_of(store, table)] == ["first", *names]

    async def test_appended_rows_share_the_fate_of_their_unit(self, store: Store, table: str) -> None:
        """What is undone, by a failed transaction or a nested unit's rollback, takes its appended rows along."""

        async def failing(session: Session) -> None:
            session.append(table, ("name", "n"), [("lost", 1)])
            raise Refused("undone")

        async def half(session: Session) -> None:
            session.append(table, ("name", "n"), [("before", 1)])
            await session.savepoint()
            session.append(table, ("name", "n"), [("undone", 1)])
            await session.rollback()
            await session.savepoint()
            session.append(table, ("name", "n"), [("kept", 1)])
            await session.release()

        async with asyncio.TaskGroup() as group:  # where transactions share a commit, these two do
            group.create_task(refused(store, failing))
            group.create_task(store.transact(half))
        assert [name for name, _ in await rows_of(store, table)] == ["before", "kept"]

    async def test_insert_new_says_what_was_new(self, store: Store, table: str) -> None:
        """C2: a flag for each row, also where the same row comes twice in one call; order and other rows are kept."""

        async def work(session: Session) -> list[list[bool]]:
            columns = ("name", "n")
            return [
                await session.insert_new(table, columns, []),
                await session.insert_new(table, columns, [("b", 1), ("a", 2)]),
                await session.insert_new(table, columns, [("a", 3), ("c", 4), ("c", 5), ("b", 6), ("d", 7), ("c", 8)]),
            ]

        assert await store.transact(work) == [
            [], [True, True], [False, True, False, False, True, False]
        ]  # fmt: skip
        assert await rows_of(store, table) == [("b", 1), ("a", 2), ("c", 4), ("d", 7)]

    async def test_insert_new_knows_committed_rows(self, store: Store, table: str) -> None:
        """The flags hold against rows of earlier transactions; rows of one that failed do not count."""
        rows = [(f"{number}", number) for number in range(500)]

        async def some(session: Session) -> list[bool]:
            return await session.insert_new(table, ("name", "n"), rows[::2])

        async def failing(session: Session) -> None:
            await session.insert_new(table, ("name", "n"), rows)
            raise Refused("undone")

        async def all_of_them(session: Session) -> list[bool]:
            return await session.insert_new(table, ("name", "n"), rows)

        assert all(await store.transact(some))
        with pytest.raises(Refused):
            await store.transact(failing)
        assert await store.transact(all_of_them) == [number % 2 == 1 for number in range(500)]

    async def test_insert_new_raises_what_is_no_repeat(self, store: Store, table: str) -> None:
        """Only a unique constraint makes a row not new; any other broken one is Conflict."""

        async def work(session: Session) -> None:
            await session.insert_new(table, ("name", "n"), [("a", 1), ("b", -1)])

        with pytest.raises(Conflict):
            await store.transact(work)
        assert await rows_of(store, table) == []

    async def test_queued_writes_run_in_order_before_a_read(self, store: Store, table: str) -> None:
        """T5: what is queued runs in the order of the calls, before the next read and before the commit."""
        counts: list[int] = []

        async def work(session: Session) -> list[Row]:
            session.queue(f"INSERT INTO {table} (name, n) VALUES (?, ?)", ("a", 1), counts.append)
            session.queue(f"UPDATE {table} SET n = n + 1", ())
            session.queue(f"UPDATE {table} SET n = n * 10 WHERE name = ?", ("a",), counts.append)
            session.queue(f"UPDATE {table} SET n = 0 WHERE name = ?", ("nobody",), counts.append)
            read = await session.fetch(f"SELECT name, n FROM {table}")
            session.queue(f"UPDATE {table} SET n = n + 1", (), counts.append)
            await session.execute(f"UPDATE {table} SET n = n * 2")
            await session.flush()
            session.queue(f"INSERT INTO {table} (name, n) VALUES ('b', 7)", ())
            return read

        assert await store.transact(work) == [("a", 20)]
        assert await rows_of(store, table) == [("a", 42), ("b", 7)]
        assert counts == [1, 1, 0, 1]

    async def test_queued_reads_see_what_was_queued_before_them(self, store: Store, table: str) -> None:
        """T5: a queued read runs in the order of the calls; its rows are there after the next read, flush or commit."""
        early: list[Row] = []
        late: list[Row] = []
        none: list[Row] = []
        last: list[Row] = []

        async def work(session: Session) -> list[bool]:
            session.queue_fetch(f"SELECT name, n FROM {table} WHERE n > ?", (0,), early.extend)
            session.queue(f"INSERT INTO {table} (name, n) VALUES (?, ?)", ("a", 1))
            session.queue_fetch(f"SELECT name, n FROM {table}", (), late.extend)
            new = await session.insert_new(table, ("name", "n"), [("a", 2), ("b", 2)])
            assert (early, late) == ([], [("a", 1)])
            session.queue_fetch(f"SELECT name FROM {table} WHERE n > 5", (), none.extend)
            await session.flush()
            session.queue_fetch(f"SELECT COUNT(*) FROM {table}", (), last.extend)
            return new

        assert await store.transact(work) == [False, True]
        assert (none, last) == ([], [(2,)])

    async def test_a_queued_read_that_fails_undoes_the_transaction(self, store: Store, table: str) -> None:
        """T5: the error of a queued read reaches the caller, and rows do not; a check that stands before it comes first."""
        rows: list[Row] = []

        def refuse(changed: int) -> None:
            raise Refused(f"{changed} changed")

        async def work(session: Session, check: Callable[[int], None] | None) -> None:
            session.queue(f"INSERT INTO {table} (name) VALUES ('a')", (), check)
            session.queue_fetch("SELECT 1 FROM nowhere", (), rows.extend)

        with pytest.raises(BadStatement):
            await store.transact(lambda session: work(session, None))
        with pytest.raises(Refused, match="1 changed"):
            await store.transact(lambda session: work(session, refuse))
        assert rows == []
        assert await rows_of(store, table) == []

    async def test_a_check_that_raises_undoes_the_transaction(self, store: Store, table: str) -> None:
        """T5: `check` gets the number of changed rows at the latest before the commit; what it raises undoes all."""
        refused = Refused("stock is gone")

        def check(changed: int) -> None:
            if changed != 1:
                raise refused

        async def work(session: Session) -> None:
            await insert(table, "a")(session)
            session.queue(f"UPDATE {table} SET n = 1 WHERE name = ?", ("a",), check)
            session.queue(f"UPDATE {table} SET n = 1 WHERE name = ?", ("nobody",), check)

        with pytest.raises(Refused) as raised:
            await store.transact(work)
        assert raised.value is refused
        assert await rows_of(store, table) == []

    async def test_a_queued_write_that_fails_undoes_the_transaction(self, store: Store, table: str) -> None:
        """T5: a queued statement's own error reaches the caller, although nobody awaited it."""

        async def work(session: Session) -> None:
            session.queue(f"INSERT INTO {table} (name) VALUES (?)", ("a",))
            session.queue(f"INSERT INTO {table} (name) VALUES (?)", ("a",))

        with pytest.raises(Conflict):
            await store.transact(work)
        assert await rows_of(store, table) == []

    async def test_a_rolled_back_unit_takes_its_queue_along(self, store: Store, table: str) -> None:
        """T5: `rollback` undoes queued statements of its unit and none that were queued before it."""

        async def work(session: Session) -> None:
            session.queue(f"INSERT INTO {table} (name) VALUES (?)", ("before",))
            await session.savepoint()
            session.queue(f"INSERT INTO {table} (name) VALUES (?)", ("inside",))
            await session.rollback()
            await session.savepoint()
            session.queue(f"INSERT INTO {table} (name) VALUES (?)", ("released",))
            await session.release()

        await store.transact(work)
        assert [name for name, _ in await rows_of(store, table)] == ["before", "released"]

    async def test_a_script_is_one_transaction(self, store: Store, table: str) -> None:
        """A script runs whole or leaves nothing, tables included."""
        await store.script(f"INSERT INTO {table} (name) VALUES ('a;b'); -- a comment; with a semicolon\n"
                           f"CREATE TABLE {table}_two (id BIGINT); INSERT INTO {table}_two VALUES (1);")  # fmt: skip
        assert await store.query(f"SELECT id FROM {table}_two") == [(1,)]
        with pytest.raises(MillstreamError):
            await store.script(f"CREATE TABLE {table}_three (id BIGINT); INSERT INTO nowhere VALUES (1);")
        await store.script(f"CREATE TABLE {table}_three (id BIGINT);")
        assert await rows_of(store, table) == [("a;b", None)]  # n has no default

    async def test_the_store_has_a_clock(self, store: Store) -> None:
        """`millstream_now()` is wall-clock microseconds of the store, and does not go back."""
        ((first,),) = await store.query("SELECT millstream_now()")
        ((second,),) = await store.query("SELECT millstream_now()")
        assert isinstance(first, int)
        assert second >= first > 1_700_000_000_000_000


async def refused(store: Store, work: Callable[[Session], Awaitable[None]]) -> None:
    """A transaction that must be refused."""
    with pytest.raises(Refused):
        await store.transact(work)
