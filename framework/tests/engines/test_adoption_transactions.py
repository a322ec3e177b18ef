"""Events leave with the caller's own transaction, or not at all: one case for each library that a caller may use."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from millstream import Event, Misconfigured
from millstream.adoption import Outbox, tables
from millstream.errors import MillstreamError, RecordRefused, Undecodable
from millstream.message import Message, decode_message
from millstream.testing.engines.postgresql import PostgresqlServer
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

outbox = Outbox("shop")
BUSINESS = "CREATE TABLE orders (id TEXT PRIMARY KEY)"


class Placed(Event, topic="orders", key="order"):
    order: str
    note: str = ""


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql"), {"fsync": "off"}) as server:
        server.execute("CREATE DATABASE template_shop")
        for sql in (*tables("postgresql"), BUSINESS):
            server.execute(sql, "template_shop")
        yield server


_number = itertools.count(1)


class Database:
    """An application's database on one of the engines, and what came to stand in it."""

    def __init__(self, kind: str, server: PostgresqlServer, folder: Path) -> None:
        self.kind = kind
        self._server = server
        if kind == "postgresql":
            self.name = f"shop{next(_number)}"
            server.execute(f"CREATE DATABASE {self.name} TEMPLATE template_shop")
            self.url = f"{server.url}/{self.name}"
        else:
            self.file = folder / "shop.db"
            connection = apsw.Connection(str(self.file))
            for sql in (*tables("sqlite"), BUSINESS):
                connection.execute(sql)
            connection.close()

    def alchemy(self, driver: str) -> str:
        if self.kind == "sqlite":
            return f"sqlite:///{self.file}"
        return self.url.replace("postgresql://", f"postgresql+{driver}://")

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        if self.kind == "postgresql":
            return self._server.execute(sql, self.name)
        connection = apsw.Connection(str(self.file))
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def orders(self) -> list[str]:
        return sorted(row[0] for row in self.rows("SELECT id FROM orders"))

    def published(self) -> list[str]:
        rows = self.rows("SELECT key, value FROM millstream_outbox ORDER BY id")
        for key, value in rows:
            assert decode_message(bytes(value)).subject == key
        return [key for key, _ in rows]


@pytest.fixture
def database(server: PostgresqlServer, tmp_path: Path) -> Database:
    return Database("postgresql", server, tmp_path)


@pytest.fixture(params=["postgresql", "sqlite"])
def either(request: pytest.FixtureRequest, server: PostgresqlServer, tmp_path: Path) -> Database:
    return Database(request.param, server, tmp_path)


class Cancelled(Exception):
    """What undoes a transaction in these tests."""


# -- asyncpg ------------------------------------------------------------------------------------------------------


async def test_asyncpg_an_event_leaves_with_the_commit_of_its_block(database: Database) -> None:
    connection = await asyncpg.connect(database.url)
    async with outbox.transaction(connection) as tx:
        tx.publish(Placed("a"))
        await connection.execute("INSERT INTO orders VALUES ('a')")
        tx.publish(Placed("b"))
        assert database.published() == []
    assert (database.orders(), database.published()) == (["a"], ["a", "b"])
    with suppress(Cancelled):
        async with outbox.transaction(connection) as tx:
            await connection.execute("INSERT INTO orders VALUES ('c')")
            tx.publish(Placed("c"))
            raise Cancelled
    assert (database.orders(), database.published()) == (["a"], ["a", "b"])
    await connection.close()


async def test_asyncpg_what_a_savepoint_published_goes_with_it(database: Database) -> None:
    async with asyncpg.create_pool(database.url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        async with outbox.transaction(connection) as tx:
            tx.publish(Placed("first"))
            with suppress(Cancelled):
                async with tx.savepoint():
                    await connection.execute("INSERT INTO orders VALUES ('gone')")
                    tx.publish(Placed("gone"))
                    raise Cancelled
            async with tx.savepoint():
                tx.publish(Placed("kept"))
        assert (database.orders(), database.published()) == ([], ["first", "kept"])
        with pytest.raises(MillstreamError, match="has ended"):
            tx.publish(Placed("late"))


async def test_asyncpg_publishing_at_once_needs_a_transaction_and_joins_it(database: Database) -> None:
    connection = await asyncpg.connect(database.url)
    with pytest.raises(Misconfigured, match="inside a transaction"):
        await outbox.publish(Placed("a"), connection=connection)
    async with connection.transaction():
        await connection.execute("INSERT INTO orders VALUES ('a')")
        message_id = await outbox.publish(Placed("a"), connection=connection)
        with pytest.raises(Misconfigured, match="in a transaction already"):
            async with outbox.transaction(connection):
                pass
    (value,) = database.rows("SELECT value FROM millstream_outbox")[0]
    assert decode_message(bytes(value)).id == message_id
    await connection.close()


# -- psycopg ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocommit", [True, False])
async def test_psycopg_async_an_event_leaves_with_the_commit_of_its_block(database: Database, autocommit: bool) -> None:
    connection = await psycopg.AsyncConnection.connect(database.url, autocommit=autocommit)
    async with connection:
        async with outbox.transaction(connection) as tx:
            tx.publish(Placed("a"))
            await connection.execute("INSERT INTO orders VALUES ('a')")
            with suppress(Cancelled):
                async with tx.savepoint():
                    tx.publish(Placed("gone"))
                    raise Cancelled
            tx.publish(Placed("b"))
        assert (database.orders(), database.published()) == (["a"], ["a", "b"])
        with suppress(Cancelled):
            async with outbox.transaction(connection) as tx:
                await connection.execute("INSERT INTO orders VALUES ('c')")
                tx.publish(Placed("c"))
                raise Cancelled
        assert (database.orders(), database.published()) == (["a"], ["a", "b"])


@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg_sync_an_event_leaves_with_the_commit_of_its_block(database: Database, autocommit: bool) -> None:
    with psycopg.connect(database.url, autocommit=autocommit) as connection:
        with outbox.transaction(connection) as tx:
            tx.publish(Placed("a"))
            connection.execute("INSERT INTO orders VALUES ('a')")
            with suppress(Cancelled), tx.savepoint():
                tx.publish(Placed("gone"))
                raise Cancelled
        assert (database.orders(), database.published()) == (["a"], ["a"])
        with suppress(Cancelled), outbox.transaction(connection) as tx:
            connection.execute("INSERT INTO orders VALUES ('b')")
            tx.publish(Placed("b"))
            raise Cancelled
        assert (database.orders(), database.published()) == (["a"], ["a"])


async def test_psycopg_publishing_at_once_needs_a_transaction_and_joins_it(database: Database) -> None:
    with psycopg.connect(database.url) as connection:
        connection.execute("INSERT INTO orders VALUES ('a')")
        outbox.publish(Placed("a"), connection=connection)
        with pytest.raises(Misconfigured, match="in a transaction already"), outbox.transaction(connection):
            pass
        connection.commit()
        outbox.publish(Placed("b"), connection=connection)
        connection.rollback()
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as apart:
        with pytest.raises(Misconfigured, match="inside a transaction"):
            await outbox.publish(Placed("c"), connection=apart)
        async with apart.transaction():
            await outbox.publish(Placed("d"), connection=apart)
    assert (database.orders(), database.published()) == (["a"], ["a", "d"])


# -- SQLAlchemy ---------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(either: Database) -> Iterator[sa.Engine]:
    engine = sa.create_engine(either.alchemy("psycopg"))
    yield engine
    engine.dispose()


def test_a_core_connection_writes_events_behind_its_last_statement(either: Database, engine: sa.Engine) -> None:
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    with engine.begin() as connection:
        outbox.publish(Placed("a"), connection=connection)
        connection.execute(sa.text("INSERT INTO orders VALUES ('a')"))
    assert (either.orders(), either.published()) == (["a"], ["a"])
    assert "millstream_outbox" in statements[-1]
    with suppress(Cancelled), engine.begin() as connection:
        outbox.publish(Placed("b"), connection=connection)
        connection.execute(sa.text("INSERT INTO orders VALUES ('b')"))
        raise Cancelled
    with engine.connect() as connection:
        connection.execute(sa.text("INSERT INTO orders VALUES ('c')"))
        outbox.publish(Placed("c"), connection=connection)
        # closed without a commit
    with engine.connect() as connection:
        connection.execute(sa.text("INSERT INTO orders VALUES ('d')"))
        outbox.publish(Placed("d"), connection=connection)
        connection.commit()
        connection.rollback()
        with pytest.raises(Misconfigured, match="inside a transaction"):
            outbox.publish(Placed("e"), connection=connection)
    assert (either.orders(), either.published()) == (["a", "d"], ["a", "d"])


def test_a_core_savepoint_takes_its_events_along(either: Database, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO orders VALUES ('a')"))
        with connection.begin_nested():
            outbox.publish(Placed("kept"), connection=connection)
        outer = connection.begin_nested()
        outbox.publish(Placed("gone"), connection=connection)
        with connection.begin_nested():
            outbox.publish(Placed("gone, released inside"), connection=connection)
        outer.rollback()
        outbox.publish(Placed("last"), connection=connection)
    assert (either.orders(), either.published()) == (["a"], ["kept", "last"])


def test_a_session_writes_events_behind_its_last_flush(either: Database, engine: sa.Engine) -> None:
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    with Session(engine) as session:
        outbox.publish(Placed("a"), connection=session)
        session.add(Order(id="a"))
        # Another listener's late work, and the flush of the commit itself, still come before the events.
        event.listen(session, "before_commit", lambda s: s.add(Order(id="late")), once=True)
        session.commit()
    assert (either.orders(), either.published()) == (["a", "late"], ["a"])
    assert "millstream_outbox" in statements[-1]


def test_a_session_that_rolls_back_or_closes_takes_its_events_along(either: Database, engine: sa.Engine) -> None:
    with Session(engine) as session:
        outbox.publish(Placed("before anything else"), connection=session)
        session.rollback()
        session.add(Order(id="a"))
        session.flush()
        outbox.publish(Placed("gone"), connection=session)
        session.rollback()
        outbox.publish(Placed("b"), connection=session)
        session.commit()
        outbox.publish(Placed("closed"), connection=session)
    with Session(engine) as session:
        session.commit()
        session.add(Order(id="c"))
        session.commit()
    with suppress(Cancelled), Session(engine) as session, session.begin():
        session.add(Order(id="d"))
        outbox.publish(Placed("d"), connection=session)
        raise Cancelled
    assert (either.orders(), either.published()) == (["c"], ["b"])


def test_a_savepoint_of_a_session_takes_its_events_along(either: Database, engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(id="a"))
        outbox.publish(Placed("first"), connection=session)
        with suppress(Cancelled), session.begin_nested():
            outbox.publish(Placed("gone"), connection=session)
            with session.begin_nested():
                outbox.publish(Placed("gone, released inside"), connection=session)
            raise Cancelled
        with session.begin_nested():
            session.add(Order(id="b"))
            outbox.publish(Placed("kept"), connection=session)
        assert either.published() == []
    assert (either.orders(), either.published()) == (["a", "b"], ["first", "kept"])


def test_a_commit_that_the_database_refuses_publishes_nothing(either: Database, engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(Order(id="a"))
        session.commit()
        session.add(Order(id="a"))
        outbox.publish(Placed("a"), connection=session)
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.add(Order(id="b"))
        session.commit()
    assert (either.orders(), either.published()) == (["a", "b"], [])


def test_a_session_inside_a_connection_leaves_with_the_connection(either: Database, engine: sa.Engine) -> None:
    with engine.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.add(Order(id="a"))
            outbox.publish(Placed("a"), connection=session)
            session.commit()
            session.add(Order(id="b"))
            outbox.publish(Placed("b"), connection=session)
            session.rollback()
        assert either.published() == []
        outer.commit()
    assert (either.orders(), either.published()) == (["a"], ["a"])


def test_a_scoped_session_is_a_session(either: Database, engine: sa.Engine) -> None:
    session = scoped_session(sessionmaker(engine))
    outbox.publish(Placed("a"), connection=session)
    session.commit()
    session.remove()
    assert either.published() == ["a"]


def test_sessions_that_are_dropped_with_events_in_hand_can_be_collected(either: Database, engine: sa.Engine) -> None:
    import gc
    import weakref

    session = Session(engine)
    outbox.publish(Placed("a"), connection=session)
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_async_session_writes_events_behind_its_last_flush(database: Database, driver: str) -> None:
    engine = create_async_engine(database.alchemy(driver))
    async with AsyncSession(engine) as session:
        session.add(Order(id="a"))
        outbox.publish(Placed("a"), connection=session)
        await session.commit()
        outbox.publish(Placed("alone"), connection=session)
        await session.commit()
        session.add(Order(id="b"))
        outbox.publish(Placed("b"), connection=session)
        await session.rollback()
        async with session.begin():
            with suppress(Cancelled):
                async with session.begin_nested():
                    outbox.publish(Placed("gone"), connection=session)
                    raise Cancelled
            outbox.publish(Placed("c"), connection=session)
            outbox.publish(Placed("d"), connection=session)
    assert (database.orders(), database.published()) == (["a"], ["a", "alone", "c", "d"])
    await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_async_connection_writes_events_behind_its_last_statement(database: Database, driver: str) -> None:
    engine = create_async_engine(database.alchemy(driver))
    async with engine.begin() as connection:
        outbox.publish(Placed("a"), connection=connection)
        await connection.execute(sa.text("INSERT INTO orders VALUES ('a')"))
    with suppress(Cancelled):
        async with engine.begin() as connection:
            outbox.publish(Placed("b"), connection=connection)
            raise Cancelled
    assert (database.orders(), database.published()) == (["a"], ["a"])
    await engine.dispose()


def test_autocommit_and_foreign_engines_are_refused(database: Database) -> None:
    engine = sa.create_engine(database.alchemy("psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        with pytest.raises(Misconfigured, match="AUTOCOMMIT"):
            outbox.publish(Placed("a"), connection=connection)
    with pytest.raises(Misconfigured, match="not an engine"):
        outbox.publish(Placed("a"), connection=engine)
    engine.dispose()


# -- at the call --------------------------------------------------------------------------------------------------


def test_size_and_encoding_are_checked_at_the_call(either: Database, engine: sa.Engine) -> None:
    class Odd(Event, topic="orders"):
        what: Any

    with Session(engine) as session:
        session.add(Order(id="a"))
        with pytest.raises(RecordRefused, match="Publish a reference"):
            outbox.publish(Placed("a", "x" * 1_000_000), connection=session)
        with pytest.raises(Undecodable, match="cannot be encoded"):
            outbox.publish(Odd(object()), connection=session)
        with pytest.raises(Misconfigured, match="is no event"):
            outbox.publish({"order": "a"}, connection=session)
        session.commit()
    assert (either.orders(), either.published()) == (["a"], [])


def test_an_event_says_where_it_comes_from_and_what_it_goes_back_to(either: Database, engine: sa.Engine) -> None:
    cause = Message("m1", "/bank", "Paid", correlationid="c1", traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    with Session(engine) as session:
        outbox.publish(Placed("ä"), connection=session, cause=cause)
        session.commit()
    (value,) = either.rows("SELECT value FROM millstream_outbox")[0]
    sent = decode_message(bytes(value))
    assert (sent.source, sent.type, sent.subject) == ("/shop", "Placed", "ä")
    assert (sent.correlationid, sent.traceparent) == ("c1", cause.traceparent)
    assert json.loads(bytes(sent.data)) == {"order": "ä", "note": ""}
