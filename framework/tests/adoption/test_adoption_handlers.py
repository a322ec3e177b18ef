"""A service's handlers inside an application: the application's session, in Millstream's transaction, on both drivers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from millstream import Event, Misconfigured, Refused, Retry, Service, Tx
from millstream.adoption import Outbox
from millstream.adoption.embedded import Millstream
from millstream.adoption.orm import SqlalchemyStore
from millstream.errors import StoreUnavailable
from millstream.testing.harness import Harness
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column

from .application import PATIENCE_SECONDS, Base, Database, Order, Placed

outbox = Outbox("shop")
TABLES = "millstream_claims, millstream_lanes, millstream_parked, millstream_dead_letters, millstream_subscriptions, millstream_workers"


class Confirmed(Event, topic="confirmed", key="order"):
    order: str


class Confirmation(Base):
    __tablename__ = "confirmations"
    number: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[str]
    note: Mapped[str]


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[AsyncEngine]:
    database.rows(f"TRUNCATE {TABLES} CASCADE")
    database.rows(
        'CREATE TABLE IF NOT EXISTS confirmations (number serial PRIMARY KEY, "order" text NOT NULL, note text NOT NULL)'
    )
    database.rows("TRUNCATE confirmations RESTART IDENTITY")
    engine = create_async_engine(database.alchemy(request.param))
    yield engine
    await engine.dispose()


async def come_true(condition: Callable[[], Awaitable[bool]]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not await condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


async def test_the_session_the_inbox_and_the_events_commit_together(
    database: Database, engine: AsyncEngine, tmp_path: Path
) -> None:
    """Some handlers fail at first, and one for good: what their sessions held goes with them, and nobody else's."""
    shop = Service("shop")
    shop.emits(Confirmed)
    tries: dict[str, int] = {}
    seen: list[str] = []

    @shop.on(Placed, name="confirm", retry=Retry(attempts=3, first="10ms", jitter=False), after_dead_letter="go_on")
    async def confirm(event: Placed, tx: Tx) -> Confirmed:
        order = await tx.session.get_one(Order, event.order)
        tx.session.add(Confirmation(order=order.id, note=event.note))
        tries[event.order] = tries.get(event.order, 0) + 1
        if event.order == "bad" or (event.order == "late" and tries["late"] == 1):
            await tx.session.flush()
            raise Refused("bad") if event.order == "bad" else LookupError("not yet")
        # The session's rows and the kernel's SQL see each other.
        count = await tx.fetch_one('SELECT count(*) FROM confirmations WHERE "order" = ?', event.order)
        assert count == (int(event.note or 0) + 1,)
        return Confirmed(event.order)

    @shop.on(Confirmed, name="notice")
    async def notice(event: Confirmed, tx: Tx) -> None:
        seen.append(event.order)

    orders = ["a", "late", "bad", "b"]
    async with Millstream(shop, engine=engine, transport=f"log://{tmp_path}/log.db", data=tmp_path, partitions=2) as ms:
        await come_true(lambda: _constant(ms.ready))
        for number in range(3):
            async with AsyncSession(engine) as session:
                for order in orders:
                    if number == 0:
                        session.add(Order(id=order))
                    outbox.publish(Placed(order, str(number)), connection=session)
                await session.commit()
        await come_true(lambda: _constant(len(seen) == 9))
    for order in ("a", "late", "b"):
        notes = database.rows(f"SELECT note FROM confirmations WHERE \"order\" = '{order}' ORDER BY number")
        assert notes == [("0",), ("1",), ("2",)]
    assert database.rows("SELECT count(*) FROM confirmations WHERE \"order\" = 'bad'") == [(0,)]
    assert database.rows("SELECT count(*) FROM millstream_dead_letters") == [(3,)]
    assert sorted(seen) == sorted(["a", "late", "b"] * 3)
    assert database.published() == []


async def _constant(value: bool) -> bool:
    return value


async def test_an_error_of_the_session_undoes_it_also_when_the_work_looks_away(
    database: Database, engine: AsyncEngine
) -> None:
    """PostgreSQL would answer COMMIT with ROLLBACK, and nobody would hear of it."""
    async with SqlalchemyStore(engine) as store:

        async def careless(session: object) -> None:
            tx = _tx(session)
            tx.session.add(Order(id="a"))
            await tx.session.flush()
            with suppress(IntegrityError):
                await tx.session.execute(insert(Order).values(id="a"))

        with pytest.raises(Exception, match="duplicate key"):
            await store.transact(careless)

        async def careful(session: object) -> int:
            tx = _tx(session)
            tx.session.add(Order(id="b"))
            with suppress(IntegrityError):
                async with tx.session.begin_nested():
                    await tx.execute("INSERT INTO orders (id) VALUES (?)", "undone")
                    tx.session.add(Order(id="b"))
            return await tx.session.scalar(select(func.count()).select_from(Order)) or 0

        assert await store.transact(careful) == 1
    assert database.orders() == ["b"]


async def test_what_is_not_the_handlers_is_refused(database: Database, engine: AsyncEngine) -> None:
    async with SqlalchemyStore(engine, sessions=async_sessionmaker(engine, expire_on_commit=False)) as store:

        async def commits(session: object) -> None:
            _tx(session).session.add(Order(id="a"))
            await _tx(session).session.commit()

        async def rolls_back(session: object) -> None:
            _tx(session).session.add(Order(id="b"))
            await _tx(session).session.flush()
            await _tx(session).session.rollback()

        async def waits(session: object) -> None:
            _tx(session).session.add(Order(id="c"))
            await asyncio.sleep(0)

        for work, words in (
            (commits, "committed when the handler returns"),
            (rolls_back, "rolled back by the handler"),
            (waits, "waiting for something else than the database at .*test_adoption_handlers.py"),
        ):
            with pytest.raises(Exception, match=words):
                await store.transact(work)
    assert database.orders() == []


async def test_a_lost_connection_is_no_fault_of_the_message(database: Database, engine: AsyncEngine) -> None:
    async with SqlalchemyStore(engine) as store:

        async def by_session(session: object) -> None:
            _tx(session).session.add(Order(id="a"))
            await _tx(session).session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

        with pytest.raises(StoreUnavailable):
            await store.transact(by_session)

        async def by_sql(session: object) -> None:
            await _tx(session).fetch("SELECT pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(StoreUnavailable):
            await store.transact(by_sql)
        await store.transact(_inserting("b"))
    assert database.orders() == ["b"]


async def test_two_transactions_that_lock_each_other_out_both_come_to_their_end(
    database: Database, engine: AsyncEngine
) -> None:
    """The loser of a deadlock runs again, whether its session or the kernel's SQL was the one that lost."""
    met = [asyncio.Event(), asyncio.Event()]
    async with SqlalchemyStore(engine) as store:
        for order in ("a", "b"):
            await store.transact(_inserting(order))

        def crossing(first: str, second: str, mine: int) -> Callable[[object], Awaitable[None]]:
            async def work(session: object) -> None:
                tx = _tx(session)
                await tx.session.get_one(Order, first, with_for_update=True)
                met[mine].set()
                while not met[1 - mine].is_set():
                    await tx.execute("SELECT pg_sleep(0.005)")
                await tx.session.get_one(Order, second, with_for_update=True)

            return work

        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(store.transact(crossing("a", "b", 0)), store.transact(crossing("b", "a", 1)))


def _inserting(order: str) -> Callable[[object], Awaitable[None]]:
    async def work(session: object) -> None:
        _tx(session).session.add(Order(id=order))

    return work


def _tx(session: object) -> Tx:
    from millstream.delivery.outbox import Origin
    from millstream.delivery.outbox import Outbox as KernelOutbox
    from millstream.ids import Ids

    return Tx(session, KernelOutbox(Origin("/shop", Ids())), 0)  # pyright: ignore[reportArgumentType] - a store's session


async def test_a_service_with_routes_belongs_to_millstream_up(engine: AsyncEngine) -> None:
    shop = Service("shop")

    @shop.get("/orders")
    async def orders() -> list[str]:
        return []

    with pytest.raises(Misconfigured, match="has routes"):
        Millstream(shop, engine=engine, transport="log")


async def test_on_another_store_there_is_no_session() -> None:
    shop = Service("shop")

    @shop.on(Placed, name="confirm")
    async def confirm(event: Placed, tx: Tx) -> None:
        tx.session.add(Order(id="a"))

    async with Harness(shop) as ms:
        await ms.publish(Placed("a"))
        await ms.quiet()
        ((_, _, _, error),) = await ms.dead_letters(shop)
    assert "has no sessions of SQLAlchemy" in error
