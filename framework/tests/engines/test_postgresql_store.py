"""The PostgreSQL store against a server that is killed, stopped, and that ends sessions; and its URLs and settings."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
from millstream.delivery.tx import Tx
from millstream.errors import BadStatement, Busy, Conflict, MillstreamError, Misconfigured, Refused, StoreUnavailable
from millstream.ports.store import Session
from millstream.postgresql.connection import Connection
from millstream.postgresql.database import database_of
from millstream.postgresql.statements import for_many_rows, script, statement
from millstream.stores.postgresql import PostgresqlStore
from millstream.testing.engines.postgresql import PostgresqlServer

PATIENCE = 15.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture
def open_store(server: PostgresqlServer, request: pytest.FixtureRequest) -> Callable[..., PostgresqlStore]:
    """A store of this test's own database; every call is another process's view of it."""
    name = f"t{abs(hash(request.node.name)) % 10**12}"

    def make(options: str = "limit=1s") -> PostgresqlStore:
        return PostgresqlStore(database_of(f"{server.url}?{options}", name))

    return make


@pytest.fixture
async def store(open_store: Callable[..., PostgresqlStore]) -> AsyncIterator[PostgresqlStore]:
    async with open_store() as store:
        await store.script("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, n INTEGER)")
        yield store


def insert(name: str, n: int = 0) -> Callable[[Session], Awaitable[int]]:
    return lambda session: session.execute("INSERT INTO t (name, n) VALUES (?, ?)", name, n)


async def names(store: PostgresqlStore) -> list[str]:
    return [name for (name,) in await store.query("SELECT name FROM t ORDER BY id")]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - the server is waited for
            await asyncio.sleep(0.01)


def database(store: PostgresqlStore) -> str:
    return store.database.name


# -- a server in trouble ------------------------------------------------------------------------------------------------


async def test_after_a_kill_what_was_confirmed_is_there_and_the_store_goes_on(
    store: PostgresqlStore, server: PostgresqlServer
) -> None:
    confirmed: list[str] = []
    unknown: list[str] = []
    stopping = False

    async def writer(number: int) -> None:
        count = 0
        while not stopping:
            count += 1
            name = f"{number}/{count}"
            try:
                await store.transact(insert(name))
                confirmed.append(name)
            except StoreUnavailable:
                unknown.append(name)
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(writer(number))
        for _ in range(2):
            seen = len(confirmed)
            while len(confirmed) < seen + 40:  # noqa: ASYNC110 - the writers are waited for
                await asyncio.sleep(0.005)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        seen = len(confirmed)
        while len(confirmed) < seen + 40:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
        stopping = True
    there = set(await names(store))
    assert set(confirmed) <= there, "a confirmed commit is lost"
    assert there <= set(confirmed) | set(unknown)
    assert unknown


async def test_a_server_that_answers_nobody_is_found_out_in_bounded_time(
    store: PostgresqlStore, server: PostgresqlServer
) -> None:
    await store.transact(insert("before"))
    server.pause()
    began = time.monotonic()
    try:
        results = await asyncio.gather(
            store.transact(insert("during")), store.query("SELECT 1"), store.scan("SELECT 1"), return_exceptions=True
        )
    finally:
        server.resume()
    # The scan has a limit of its own; nobody waits for it here longer than for opening its connection.
    assert [type(r).__mro__[-4] for r in results] == [MillstreamError] * 3
    assert time.monotonic() - began < 10
    await store.transact(insert("after"))
    assert set(await names(store)) >= {"before", "after"}


async def test_a_session_that_the_server_ends_is_unavailable_and_replaced(
    store: PostgresqlStore, server: PostgresqlServer
) -> None:
    async def work(session: Session) -> None:
        await insert("undone")(session)
        ((pid,),) = await session.fetch("SELECT pg_backend_pid()")
        server.execute(f"SELECT pg_terminate_backend({pid})")
        await insert("behind")(session)

    with pytest.raises(StoreUnavailable):
        await store.transact(work)
    await store.transact(insert("good"))
    assert await names(store) == ["good"]


async def test_idle_connections_that_were_cut_are_not_used(store: PostgresqlStore, server: PostgresqlServer) -> None:
    await asyncio.gather(*(store.transact(insert(str(n))) for n in range(8)))
    await store.query("SELECT 1")
    server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database(store)}'")
    await until(lambda: _gone(server, store))
    await asyncio.sleep(0.05)  # the loop has seen the sockets close
    await asyncio.gather(*(store.transact(insert(f"again {n}")) for n in range(8)))
    assert len(await names(store)) == 16


async def _gone(server: PostgresqlServer, store: PostgresqlStore) -> bool:
    rows = server.execute(
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database(store)}' AND application_name = 'millstream'"
    )
    return rows == [(0,)]


async def test_what_the_server_says_about_its_own_trouble_is_no_message_fault(store: PostgresqlStore) -> None:
    for code in ("53100", "53200", "57P01", "XX000", "58030"):
        raising = f"DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '{code}'; END $$"
        with pytest.raises(StoreUnavailable, match=code):
            await store.transact(lambda session, sql=raising: session.execute(sql))


async def test_an_unreachable_server_is_unavailable_at_open_and_a_refusing_one_misconfigured(
    server: PostgresqlServer,
) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        async with PostgresqlStore(database_of("postgresql://u:secret@127.0.0.1:1", "shop")):
            pass
    with pytest.raises(Misconfigured, match="role") as refused:
        async with PostgresqlStore(database_of(server.url.replace("millstream", "nobody:secret"), "shop")):
            pass
    assert "secret" not in str(refused.value)


# -- transactions that get into each other's way ------------------------------------------------------------------------


async def test_a_deadlock_is_resolved_without_anybody_noticing(
    store: PostgresqlStore, server: PostgresqlServer
) -> None:
    await store.transact(insert("a"))
    await store.transact(insert("b"))
    runs = 0

    async def both(session: Session, first: str, second: str) -> None:
        nonlocal runs
        runs += 1
        for name in (first, second):
            await session.execute("UPDATE t SET n = n + 1 WHERE name = ?", name)
            await session.fetch("SELECT pg_sleep(0.1)")

    server.execute("ALTER SYSTEM SET deadlock_timeout = '50ms'")
    server.execute("SELECT pg_reload_conf()")
    await asyncio.gather(store.transact(lambda s: both(s, "a", "b")), store.transact(lambda s: both(s, "b", "a")))
    assert await store.query("SELECT n FROM t") == [(2,), (2,)]
    assert runs > 2


async def test_work_that_the_engine_always_wants_again_ends_as_unavailable(store: PostgresqlStore) -> None:
    runs = 0

    async def work(session: Session) -> None:
        nonlocal runs
        runs += 1
        await insert("undone")(session)
        try:
            await session.execute("DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '40001'; END $$")
        except StoreUnavailable as error:
            raise Refused("the handler blames itself") from error

    with pytest.raises(StoreUnavailable, match="40001"):
        await store.transact(work)
    assert runs > 5
    assert await names(store) == []


async def test_waiting_for_a_lock_ends_and_blames_nobody(store: PostgresqlStore, server: PostgresqlServer) -> None:
    await store.transact(insert("a"))
    with psycopg.connect(f"{server.url}/{database(store)}") as other:
        other.execute("UPDATE t SET n = 1")
        with pytest.raises((StoreUnavailable, Busy)):
            await store.transact(lambda session: session.execute("UPDATE t SET n = 2"))
        other.rollback()
    await store.transact(lambda session: session.execute("UPDATE t SET n = 3"))
    assert await store.query("SELECT n FROM t") == [(3,)]


async def test_a_statement_that_takes_too_long_is_ended(store: PostgresqlStore) -> None:
    began = time.monotonic()
    with pytest.raises(Busy, match="limit"):
        await store.transact(lambda session: session.fetch("SELECT pg_sleep(10)"))
    assert time.monotonic() - began < 3
    await store.transact(insert("good"))


async def test_an_error_that_the_work_swallows_undoes_it_all_the_same(store: PostgresqlStore) -> None:
    await store.transact(insert("a"))

    async def work(session: Session) -> str:
        await insert("b")(session)
        with contextlib.suppress(Conflict):
            await insert("a")(session)
        return "fine"

    with pytest.raises(Conflict):
        await store.transact(work)
    assert await names(store) == ["a"]


async def test_a_refused_expectation_that_a_later_statement_swallows_undoes_it_all_the_same(
    store: PostgresqlStore,
) -> None:
    async def work(session: Session) -> None:
        tx = Tx(session, None, 0)  # type: ignore[arg-type] - nothing is published
        tx.expect("UPDATE t SET n = 1 WHERE name = 'nobody'", otherwise=Refused("gone"))
        with contextlib.suppress(Refused):
            await insert("b")(session)

    with pytest.raises(Refused, match="gone"):
        await store.transact(work)
    assert await names(store) == []


async def test_a_caller_that_gives_up_takes_nothing_away(store: PostgresqlStore) -> None:
    began = asyncio.Event()

    async def work(session: Session) -> None:
        await insert("first")(session)
        began.set()
        await session.fetch("SELECT pg_sleep(0.2)")
        await insert("second")(session)

    caller = asyncio.get_running_loop().create_task(store.transact(work))
    await began.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await until(lambda: _has(store, ["first", "second"]))


async def test_closing_waits_for_what_cancelled_callers_left(open_store: Callable[..., PostgresqlStore]) -> None:
    async with open_store() as store:
        await store.script("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, n INTEGER)")
        began = asyncio.Event()

        async def work(session: Session) -> None:
            await insert("first")(session)
            began.set()
            await session.fetch("SELECT pg_sleep(0.3)")
            await insert("second")(session)

        caller = asyncio.get_running_loop().create_task(store.transact(work))
        await began.wait()
        caller.cancel()
    async with open_store() as store:
        assert await names(store) == ["first", "second"]


async def _has(store: PostgresqlStore, wanted: list[str]) -> bool:
    return await names(store) == wanted


async def test_more_callers_than_connections_take_turns(open_store: Callable[..., PostgresqlStore]) -> None:
    async with open_store("connections=2&limit=5s") as store:
        await store.script("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, n INTEGER)")
        await asyncio.gather(*(store.transact(insert(str(n))) for n in range(100)))
        assert len(await names(store)) == 100
        ((count,),) = await store.query(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'millstream'"
        )
        assert count == 3  # two for transactions, one for reads


async def test_work_without_statements_never_reaches_the_server(
    store: PostgresqlStore, server: PostgresqlServer
) -> None:
    async def work(session: Session) -> int:
        return 7

    server.pause()
    try:
        assert await store.transact(work) == 7
    finally:
        server.resume()


# -- what is sent -------------------------------------------------------------------------------------------------------


async def test_one_statement_and_one_event_take_two_round_trips(store: PostgresqlStore) -> None:
    """T5: BEGIN travels with the first statement, the slot's lock and the row with COMMIT."""
    trips: list[list[bytes]] = []

    async def work(session: Session) -> None:
        await insert("a")(session)
        await session.lock_slots([7])
        session.append("t", ("name", "n"), [("b", 1)])

    await store.transact(work)  # the types of the table are asked for once
    (connection,) = store.pool._idle
    send = connection.send

    def watched(statements: Any, done: Any) -> None:
        trips.append([text.split()[0] for text, _ in statements])
        send(statements, done)

    connection.send = watched
    await store.transact(lambda s: s.execute("DELETE FROM t"))
    trips.clear()
    await store.transact(work)
    assert trips == [[b"BEGIN", b"INSERT"], [b"SELECT", b"INSERT", b"COMMIT"]]


def test_placeholders_are_found_and_nothing_else() -> None:
    cases = {
        "SELECT ?, '?', \"?\", ? -- ?\n, ?": "SELECT $1, '?', \"?\", $2 -- ?\n, $3",
        "SELECT E'\\'?' || ? /* ? */": "SELECT E'\\'?' || $1 /* ? */",
        "SELECT $$?$$, $x$ ? $x$, ?": "SELECT $$?$$, $x$ ? $x$, $1",
        "SELECT a ?? 'b', ?::int": "SELECT a ? 'b', $1::int",
        "SELECT x'00FF', CAST(? AS INTEGER)": "SELECT '\\x00FF'::bytea, CAST($1 AS BIGINT)",
        "SELECT 1 /*postgresql FOR UPDATE */": "SELECT 1  FOR UPDATE ",
    }
    for sql, wanted in cases.items():
        assert statement(sql).text.decode() == wanted


def test_a_script_keeps_its_literals_and_comments() -> None:
    sql = "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, b BLOB DEFAULT 'INTEGER') WITHOUT ROWID; -- INTEGER"
    assert script(sql).decode() == (
        "CREATE TABLE t (id BIGINT GENERATED BY DEFAULT AS IDENTITY (CACHE 1) PRIMARY KEY, b BYTEA DEFAULT 'INTEGER') ; "
        "-- INTEGER"
    )


def test_only_plain_inserts_and_deletes_run_for_many_rows_at_once() -> None:
    assert for_many_rows("INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT DO NOTHING") is not None
    assert for_many_rows("DELETE FROM t WHERE a >= ? AND b <= ?") is not None
    for sql in (
        "INSERT INTO t (a, b) VALUES (?, 1)",
        "INSERT INTO t (a) VALUES (?) ON CONFLICT (a) DO UPDATE SET a = excluded.a",
        "INSERT INTO t (a) VALUES (?) RETURNING a",
        "UPDATE t SET a = ? WHERE b = ?",
        "DELETE FROM t WHERE a = ? OR b = ?",
    ):
        assert for_many_rows(sql) is None


async def test_many_rows_of_every_type_come_back_as_they_went_in(store: PostgresqlStore) -> None:
    await store.script("CREATE TABLE kinds (i INTEGER, f REAL, t TEXT, b BLOB, v VARCHAR(40), f2 BOOLEAN)")
    rows = [
        (n, n / 3, f'{n} "quoted" \\ {{}} , NULL Ω', bytes([n, 0, 255]), f"v{n}", n % 2 == 0) for n in range(20)
    ] + [(None,) * 6]
    sql = "INSERT INTO kinds (i, f, t, b, v, f2) VALUES (?, ?, ?, ?, ?, ?)"
    await store.transact(lambda session: session.execute_many(sql, rows))
    assert await store.query("SELECT i, f, t, b, v, f2 FROM kinds") == rows
    gone = [(n,) for n in range(0, 20, 2)]
    await store.transact(lambda session: session.execute_many("DELETE FROM kinds WHERE i = ?", gone))
    assert await store.query("SELECT i FROM kinds WHERE i IS NOT NULL") == [(n,) for n in range(1, 20, 2)]


async def test_sums_and_json_are_what_they_are_on_sqlite(store: PostgresqlStore) -> None:
    await asyncio.gather(*(store.transact(insert(str(n), n)) for n in range(4)))
    assert await store.query("SELECT SUM(n), AVG(n), '{\"a\": 1}'::jsonb FROM t") == [(6, 1.5, '{"a": 1}')]
    assert isinstance((await store.query("SELECT SUM(n) FROM t"))[0][0], int)


async def test_text_that_postgresql_cannot_hold_is_refused_whole(store: PostgresqlStore) -> None:
    for text in ("a\0b", "\ud800"):
        with pytest.raises(BadStatement):
            await store.transact(insert(text))
        rows = [(text, 1), ("c", 2)]
        with pytest.raises(BadStatement):
            await store.transact(lambda s, r=rows: s.execute_many("INSERT INTO t (name, n) VALUES (?, ?)", r))
    assert await names(store) == []


async def test_what_a_failed_exchange_skipped_is_prepared_when_it_comes_again(open_store: Any) -> None:
    async with open_store("connections=1") as store:
        await store.script("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, n INTEGER)")
        update = "UPDATE t SET n = n + 1"
        await store.transact(insert("a"))

        async def work(session: Session, fails: bool) -> None:
            if fails:
                session.queue("INSERT INTO t (name) VALUES ('a')", ())
            session.queue(update, ())
            await session.flush()

        await store.transact(lambda session: work(session, False))
        with pytest.raises(Conflict):
            await store.transact(lambda session: work(session, True))  # its second use prepares it: skipped
        await store.transact(lambda session: work(session, False))
        for _ in range(3):
            with pytest.raises(BadStatement, match="nowhere"):
                await store.transact(lambda session: session.execute("SELECT 1 FROM nowhere"))
        assert await store.query("SELECT n FROM t") == [(2,)]


async def test_a_table_that_changes_under_prepared_statements(store: PostgresqlStore) -> None:
    for n in range(4):
        await store.transact(insert(str(n)))
        assert len((await store.query("SELECT * FROM t"))[0]) == 3
    await store.script("ALTER TABLE t ADD COLUMN more TEXT")
    assert len((await store.query("SELECT * FROM t"))[0]) == 4
    await store.transact(insert("more"))


# -- writes that are counted by the server ------------------------------------------------------------------------------


def exchanges(store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statements each exchange has from now on."""
    sent: list[int] = []
    send = Connection.send

    def counted(self: Connection, statements: Any, done: Any) -> None:
        sent.append(len(statements))
        send(self, statements, done)

    monkeypatch.setattr(Connection, "send", counted)
    return sent


def expecting(*writes: tuple[str, int]) -> Callable[[Session], Awaitable[None]]:
    """Writes, each with the number of rows that it has to change."""

    async def work(session: Session) -> None:
        tx = Tx(session, None, 0)  # pyright: ignore[reportArgumentType] - it publishes nothing
        for sql, rows in writes:
            tx.expect(sql, rows=rows, otherwise=Refused(sql))

    return work


async def test_a_transaction_that_ends_with_expectations_is_one_exchange(
    store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        await store.transact(insert(name))
    sent = exchanges(store, monkeypatch)
    await store.transact(
        expecting(
            ("INSERT INTO t (name) VALUES ('d')", 1),
            ("INSERT INTO t (name) VALUES ('a'), ('e') ON CONFLICT DO NOTHING -- only the new one", 1),
            ("UPDATE t SET n = n + 1 WHERE n = 0", 3),
            ("DELETE FROM t WHERE name = 'nobody'", 0),
        )
    )
    assert sent == [6]
    assert await store.query("SELECT name, n FROM t ORDER BY name") == [
        ("a", 1), ("b", 1), ("c", 1), ("d", None), ("e", None),
    ]  # fmt: skip


@pytest.mark.parametrize("first", [True, False], ids=["in the exchange with BEGIN", "behind a read"])
async def test_the_first_expectation_that_is_not_met_undoes_all(store: PostgresqlStore, first: bool) -> None:
    await store.transact(insert("a"))
    wrong = ("UPDATE t SET n = 2 WHERE name = 'nobody'", 1)
    writes = (("UPDATE t SET n = 1 WHERE name = 'a'", 1), wrong, ("UPDATE t SET n = 3", 7), ("INSERT nonsense", 1))

    async def work(session: Session) -> None:
        if not first:
            await session.fetch("SELECT 1")
        await expecting(*writes)(session)

    for _ in range(3):  # as it comes, prepared, and prepared again after it failed
        with pytest.raises(Refused) as refused:
            await store.transact(work)
        assert str(refused.value) == wrong[0]
        assert await store.query("SELECT name, n FROM t") == [("a", 0)]
    with pytest.raises(Conflict):
        await store.transact(expecting(("INSERT INTO t (name) VALUES ('a')", 1), wrong))


async def test_writes_that_the_server_cannot_count_are_checked_all_the_same(
    store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.script("CREATE TABLE kept (name TEXT); CREATE VIEW v AS SELECT name FROM t")
    await store.script("CREATE RULE r AS ON INSERT TO v DO INSTEAD INSERT INTO kept VALUES (NEW.name)")
    sent = exchanges(store, monkeypatch)
    ruled = "INSERT INTO v (name) VALUES ('x')"
    await store.transact(expecting((ruled, 1)))
    assert len(sent) == 4, "once refused, undone, and again without: the check before the commit"
    sent.clear()
    await store.transact(expecting((ruled, 1)))
    assert len(sent) == 2, "it is remembered"
    with pytest.raises(Refused):
        await store.transact(expecting((ruled, 2)))
    assert await store.query("SELECT name FROM kept") == [("x",), ("x",)]
    returning = "UPDATE kept SET name = 'y' RETURNING name"
    await store.transact(expecting((returning, 2)))
    with pytest.raises(Refused):
        await store.transact(expecting(("WITH w AS (SELECT 1) DELETE FROM kept", 1)))
    assert await store.query("SELECT name FROM kept") == [("y",), ("y",)]


# -- URLs and settings --------------------------------------------------------------------------------------------------


def test_a_url_with_several_mistakes_names_them_all_and_no_password() -> None:
    with pytest.raises(Misconfigured) as refused:
        database_of("postgresql://u:secret@h?connections=0&limit=soon&colour=red", "no/name")
    text = str(refused.value)
    for part in ("connections", "limit", "'colour'", "'no/name'"):
        assert part in text
    assert "secret" not in text
    assert "secret" not in repr(database_of("postgresql://u:secret@h", "shop"))


async def test_a_named_database_keeps_each_service_in_a_schema(server: PostgresqlServer) -> None:
    server.execute("CREATE DATABASE platform")
    for service in ("orders", "Pay-ments"):
        async with PostgresqlStore(database_of(f"{server.url}/platform", service)) as store:
            await store.script("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, n INTEGER)")
            await store.transact(insert(service))
            assert await names(store) == [service]
            signal = store.listen("channel")

            async def notifying(session: Session) -> None:
                session.notify("channel")

            await store.transact(notifying)
            assert await signal.wait(PATIENCE)
    assert server.execute("SELECT nspname FROM pg_namespace WHERE nspname IN ('orders', 'Pay-ments')", "platform")


async def test_two_processes_that_start_together_make_one_database(open_store: Callable[..., PostgresqlStore]) -> None:
    async def start() -> None:
        async with open_store() as store:
            await store.script("CREATE TABLE IF NOT EXISTS made (n INTEGER)")

    await asyncio.gather(*(start() for _ in range(4)))


async def test_weak_settings_are_named(open_store: Callable[..., PostgresqlStore], server: PostgresqlServer) -> None:
    async with open_store() as store:
        assert (await store.durability()).power_loss
        server.execute(f'ALTER DATABASE "{database(store)}" SET synchronous_commit = off')
    async with open_store() as store:
        durability = await store.durability()
        assert not durability.process_crash
        assert "synchronous_commit is off: set it to on" in durability.why_not
