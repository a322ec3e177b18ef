"""The inbox inside the caller's own transaction: a message counts once, whatever library handles it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from millstream import Misconfigured
from millstream.adoption import Inbox, OlderThanInbox
from millstream.adoption.forgetting import InboxPurge
from millstream.adoption.relay_store import source_of
from millstream.clock import SystemClock
from millstream.message import Message, encode_message, format_time, parse_time
from millstream.ports.instrumentation import Silent
from millstream.testing.clock import ManualClock
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from .application import Cancelled, Database, until

inbox = Inbox()
NOW_US = parse_time("2026-01-10T00:00:00Z")
DAY = 86_400


def paid(id_: str = "m1", days_ago: float = 0) -> Message:
    return Message(id_, "/bank", "Paid", time=format_time(NOW_US - round(days_ago * DAY * 1e6)))


Handle = Callable[[str, Message, bool], Awaitable[bool]]


async def by_asyncpg(url: str, message: Message, fails: bool) -> bool:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            is_new = await inbox.accept(message, subscription="confirm", connection=connection)
            if fails:
                raise Cancelled
    finally:
        await connection.close()
    return is_new


async def by_psycopg(url: str, message: Message, fails: bool) -> bool:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        connection.row_factory = dict_row  # pyright: ignore[reportAttributeAccessIssue] - the caller's own rows
        is_new = await inbox.accept(message, subscription="confirm", connection=connection)
        if fails:
            raise Cancelled
    return is_new


async def by_psycopg_sync(url: str, message: Message, fails: bool) -> bool:
    with psycopg.connect(url) as connection:
        is_new = inbox.accept(message, subscription="confirm", connection=connection)
        if fails:
            raise Cancelled
    return is_new


async def by_async_session(url: str, message: Message, fails: bool) -> bool:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    try:
        async with AsyncSession(engine) as session, session.begin():
            is_new = await inbox.accept(message, subscription="confirm", connection=session)
            if fails:
                raise Cancelled
    finally:
        await engine.dispose()
    return is_new


async def by_async_connection(url: str, message: Message, fails: bool) -> bool:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        async with engine.begin() as connection:
            is_new = await inbox.accept(message, subscription="confirm", connection=connection)
            if fails:
                raise Cancelled
    finally:
        await engine.dispose()
    return is_new


HANDLERS: list[Handle] = [by_asyncpg, by_psycopg, by_psycopg_sync, by_async_session, by_async_connection]


@pytest.mark.parametrize("handle", HANDLERS, ids=lambda handle: handle.__name__)
async def test_a_message_is_new_until_a_transaction_with_it_has_committed(database: Database, handle: Handle) -> None:
    with suppress(Cancelled):
        await handle(database.url, paid(), True)
    assert [await handle(database.url, paid(id_), False) for id_ in ("m1", "m1", "m2")] == [True, False, True]
    # What another library accepted is a repeat here.
    assert not await by_asyncpg(database.url, paid(), False)


def test_a_session_accepts_once_for_each_subscription_and_source(either: Database, engine: sa.Engine) -> None:
    value = encode_message(paid())
    with Session(engine) as session:
        assert inbox.accept(value, subscription="confirm", connection=session)
        session.rollback()
        assert inbox.accept(value, subscription="confirm", connection=session)
        assert inbox.accept(value, subscription="another", connection=session)
        assert inbox.accept(
            Message("m1", "/another", "Paid", time=paid().time), subscription="confirm", connection=session
        )
        session.commit()
        assert not inbox.accept(value, subscription="confirm", connection=session)
    with engine.begin() as connection:
        assert not inbox.accept(value, subscription="confirm", connection=connection)
    with pytest.raises(Misconfigured, match="name the subscription"):
        inbox.accept(value, subscription="", connection=session)


async def test_outside_of_a_transaction_it_is_refused(database: Database) -> None:
    connection = await asyncpg.connect(database.url)
    with pytest.raises(Misconfigured, match="inside the transaction"):
        await inbox.accept(paid(), subscription="confirm", connection=connection)
    await connection.close()
    with psycopg.connect(database.url, autocommit=True) as apart:
        with pytest.raises(Misconfigured, match="inside a transaction"):
            inbox.accept(paid(), subscription="confirm", connection=apart)


def test_of_two_transactions_at_once_one_waits_and_learns_that_it_is_a_repeat(database: Database) -> None:
    answers: list[bool] = []

    def second() -> None:
        answers.append(asyncio.run(by_psycopg_sync(database.url, paid(), False)))

    with psycopg.connect(database.url) as first:
        assert inbox.accept(paid(), subscription="confirm", connection=first)
        thread = threading.Thread(target=second)
        thread.start()
        until(lambda: database.rows("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(1,)])
        first.commit()
    thread.join()
    assert answers == [False]


async def purge(database: Database, days: float) -> int:
    clock = ManualClock(NOW_US)
    on_file = database.kind == "sqlite"  # its clock is the process's; the server's own is years ahead of these messages
    source = source_of(database.url, schema=None, clock=clock if on_file else SystemClock(), instrumentation=Silent())
    async with source.opened(create=False) as (store, _):
        return await InboxPurge(store, clock=clock, instrumentation=Silent(), retention=days * DAY).purge()


async def test_what_was_forgotten_is_refused_and_never_taken_for_new(either: Database, engine: sa.Engine) -> None:
    """Rule C8. Ages count from the newest message, not from the clock: a subscription that rests forgets nothing."""
    messages = [paid("old", 8), paid("middle", 6), paid("young", 1)]
    with Session(engine) as session:
        for message in messages:
            assert inbox.accept(message, subscription="confirm", connection=session)
        session.commit()
        session.close()
        assert await purge(either, days=7) == 0  # the oldest is a week older than the newest, to the day
        assert await purge(either, days=6) == 1
        assert await purge(either, days=6) == 0
        for message in messages[1:]:
            assert not inbox.accept(message, subscription="confirm", connection=session)
        with pytest.raises(OlderThanInbox, match="older than what the inbox of confirm remembers") as refused:
            inbox.accept(messages[0], subscription="confirm", connection=session)
        assert refused.value.message.id == "old"
        session.rollback()
        # Another subscription has forgotten nothing.
        assert inbox.accept(messages[0], subscription="another", connection=session)
        session.commit()


async def test_a_producer_whose_clock_is_ahead_makes_nobody_forget(either: Database, engine: sa.Engine) -> None:
    with Session(engine) as session:
        inbox.accept(paid("ahead", -400_000), subscription="confirm", connection=session)
        inbox.accept(Message("now", "/bank", "Paid", time=format_time(SystemClock().now_us())), subscription="confirm", connection=session)  # fmt: skip
        session.commit()
        session.close()
        assert await purge(either, days=2 * 365) == 0
