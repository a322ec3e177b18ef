"""Events leave with the caller's own transaction, or not at all: one case for each library that a caller may use."""

from __future__ import annotations

import gc
import json
import weakref
from contextlib import suppress
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from millstream import Event, Misconfigured
from millstream.adoption import Outbox
from millstream.errors import MillstreamError, RecordRefused, Undecodable
from millstream.message import Message, decode_message
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from .application import Cancelled, Database, Order, Placed

outbox = Outbox("shop")


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


@pytest.mark.parametrize("through", ["connection", "session"])
def test_events_that_cannot_be_written_keep_nothing_of_their_transaction(
    either: Database, engine: sa.Engine, through: str
) -> None:
    """SQLite goes on after a failed statement: the business rows must not be there at the next commit."""
    with engine.connect() as connection:
        outer = connection.begin()
        unit = Session(connection) if through == "session" else connection
        unit.execute(sa.text("INSERT INTO orders VALUES ('a')"))
        connection.execute(sa.text("DROP TABLE millstream_outbox"))
        outbox.publish(Placed("a"), connection=unit)
        with pytest.raises(DBAPIError, match="millstream_outbox"):
            outer.commit()
        outer.close()
        if isinstance(unit, Session):
            unit.close()
        connection.execute(sa.text("INSERT INTO orders VALUES ('b')"))
        connection.commit()
    assert (either.orders(), either.published()) == (["b"], [])


def test_a_session_whose_connection_commits_before_it_leaves_with_the_connection(
    either: Database, engine: sa.Engine
) -> None:
    with engine.connect() as connection:
        for order, ends in (("a", "commit"), ("b", "rollback"), ("c", "commit")):
            outer = connection.begin()
            with Session(connection) as session:
                session.add(Order(id=order))
                session.flush()
                outbox.publish(Placed(order), connection=session)
                getattr(outer, ends)()
    assert (either.orders(), either.published()) == (["a", "c"], ["a", "c"])


def test_a_session_without_a_database_of_its_own_says_where_to_publish(either: Database, engine: sa.Engine) -> None:
    with Session(binds={Order: engine}) as session:
        with pytest.raises(Misconfigured, match="bind_arguments"):
            outbox.publish(Placed("a"), connection=session)
        session.add(Order(id="a"))
        outbox.publish(Placed("a"), connection=session.connection(bind_arguments={"mapper": Order}))
        session.commit()
    assert (either.orders(), either.published()) == (["a"], ["a"])


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
    engine = sa.create_engine(database.alchemy(), isolation_level="AUTOCOMMIT")
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
