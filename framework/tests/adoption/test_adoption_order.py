"""Row order is commit order for a key, whichever libraries publish side by side (rule T4)."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from millstream.adoption import Outbox
from millstream.adoption.statements import SLOT_LOCKS, Place
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from .application import Database, Order, Placed, until
from .shop_django import django_connection, django_publishes

outbox = Outbox("shop")
Writer = Callable[[str, list[Placed]], Coroutine[Any, Any, None]]


async def by_asyncpg(url: str, events: list[Placed]) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with outbox.transaction(connection) as tx:
            for event in events:
                tx.publish(event)
    finally:
        await connection.close()


async def by_asyncpg_at_once(url: str, events: list[Placed]) -> None:
    connection = await asyncpg.connect(url)
    try:
        for event in events:  # one each: several at once would take their slots in the order of the calls
            async with connection.transaction():
                await outbox.publish(event, connection=connection)
    finally:
        await connection.close()


async def by_psycopg(url: str, events: list[Placed]) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection, outbox.transaction(connection) as tx:
        for event in events:
            tx.publish(event)


async def by_psycopg_in_a_thread(url: str, events: list[Placed]) -> None:
    def work() -> None:
        with psycopg.connect(url) as connection, outbox.transaction(connection) as tx:
            for event in events:
                tx.publish(event)

    await asyncio.to_thread(work)


async def by_sqlalchemy(url: str, events: list[Placed]) -> None:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    try:
        async with AsyncSession(engine) as session:
            for event in events:
                outbox.publish(event, connection=session)
            await session.commit()
    finally:
        await engine.dispose()


async def by_sqlalchemy_in_a_thread(url: str, events: list[Placed]) -> None:
    def work() -> None:
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with Session(engine) as session:
            for event in events:
                outbox.publish(event, connection=session)
            session.commit()
        engine.dispose()

    await asyncio.to_thread(work)


async def by_django(url: str, events: list[Placed]) -> None:
    def work() -> None:
        with django_connection(url) as connection:
            django_publishes(outbox, connection, events)

    await asyncio.to_thread(work)


WRITERS: list[Writer] = [
    by_asyncpg,
    by_asyncpg_at_once,
    by_psycopg,
    by_psycopg_in_a_thread,
    by_sqlalchemy,
    by_sqlalchemy_in_a_thread,
    by_django,
]


def notes(database: Database) -> list[str]:
    """What the waiting events say, in the order of their rows."""
    return [json.loads(bytes(message.data))["note"] for message in database.messages()]


def waiting(database: Database) -> int:
    """How many transactions wait for a slot."""
    sql = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = {SLOT_LOCKS} AND NOT granted"
    return database.rows(sql)[0][0]


@pytest.mark.parametrize("second", WRITERS, ids=lambda writer: writer.__name__)
async def test_who_publishes_for_a_key_waits_for_who_published_before(database: Database, second: Writer) -> None:
    with psycopg.connect(database.url) as first:
        outbox.publish(Placed("k", "first"), connection=first)
        # The key of another slot waits for nobody.
        await second(database.url, [Placed("other")])
        assert database.published() == ["other"]
        later = asyncio.create_task(second(database.url, [Placed("k", "second")]))
        await asyncio.to_thread(until, lambda: waiting(database) == 1 or later.done())
        assert not later.done()
        first.commit()
        await later
    assert notes(database) == ["first", "", "second"]


@pytest.mark.parametrize("second", WRITERS, ids=lambda writer: writer.__name__)
async def test_without_the_locks_a_later_commit_is_seen_first(
    database: Database, second: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would not catch if it did not hang on the locks."""
    monkeypatch.setattr(Place, "lock_and_ring", lambda _, slots: f"SELECT CAST({slots} AS int[])")
    with psycopg.connect(database.url) as first:
        outbox.publish(Placed("k", "first"), connection=first)
        await second(database.url, [Placed("k", "second")])
        assert notes(database) == ["second"]  # a relay forwards and deletes it now
        first.commit()
    assert notes(database) == ["first", "second"]


async def test_writers_of_all_libraries_at_once_commit_in_the_order_of_their_rows(database: Database) -> None:
    """PostgreSQL itself says when a row's transaction committed."""
    dice, rounds, keys = random.Random(4), 8, ["a", "b", "c"]

    async def write(writer: Writer) -> None:
        for _ in range(rounds):
            # Several keys in any order: slots are taken ascending, so nobody deadlocks.
            await writer(database.url, [Placed(key) for key in dice.sample(keys, 2)])

    async with asyncio.TaskGroup() as group:
        for writer in WRITERS:
            group.create_task(write(writer))
    rows = database.rows("SELECT key, pg_xact_commit_timestamp(xmin) FROM millstream_outbox ORDER BY id")
    assert len(rows) == len(WRITERS) * rounds * 2
    for key in keys:
        commits = [at for found, at in rows if found == key]
        assert commits == sorted(commits)


def test_on_sqlite_the_only_writer_is_held_from_the_first_row_to_the_commit(
    either: Database, engine: sa.Engine
) -> None:
    if either.kind == "postgresql":
        return
    with Session(engine) as first, Session(engine) as second:
        first.add(Order(id="a"))
        outbox.publish(Placed("k", "second"), connection=second)
        outbox.publish(Placed("k", "first"), connection=first)
        first.commit()
        second.add(Order(id="b"))
        second.commit()
    assert notes(either) == ["first", "second"]
