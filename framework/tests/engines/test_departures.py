"""A worker whose process ended is found out in seconds; one that is slow, or that lost a connection, is left alone.

Two stores on one database stand for two processes: closing one that has released nothing is what the server sees of a kill.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from millstream.clock import SystemClock
from millstream.delivery import claims, departures
from millstream.delivery.departures import Departures
from millstream.ports.instrumentation import Silent
from millstream.ports.store import Presence
from millstream.postgresql.database import database_of
from millstream.runtime.migrations import migrate
from millstream.stores.postgresql import PostgresqlStore
from millstream.testing.engines.postgresql import PostgresqlServer

HOUR_US = 3_600_000_000
SILENT = 1.5
LOOK = 0.02


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture
def url(server: PostgresqlServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(departures, "SILENT_SECONDS", SILENT)
    monkeypatch.setattr(departures, "LOOK_SECONDS", LOOK)
    with psycopg.connect(f"{server.url}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{request.node.name}"'.encode())
    return f"{server.url}/{request.node.name}"


@asynccontextmanager
async def process(url: str) -> AsyncIterator[PostgresqlStore]:
    async with PostgresqlStore(database_of(url, "shop")) as store:
        await migrate(store, "shop", None)
        yield store


async def sign(store: PostgresqlStore, worker: str) -> None:
    await store.transact(lambda session: claims.renew(session, worker, HOUR_US))


async def hold_a_claim(store: PostgresqlStore, worker: str) -> None:
    """With a lease that no test outlasts."""
    await store.script("INSERT INTO millstream_claims (subscription, partition) VALUES (7, 0)")
    await sign(store, worker)
    taken = await store.transact(lambda session: claims.take(session, 7, 0, worker, HOUR_US, 500))
    assert taken is not None


async def is_free(store: PostgresqlStore) -> bool:
    ((free,),) = await store.query("SELECT expires < millstream_now() FROM millstream_claims WHERE subscription = 7")
    return bool(free)


@asynccontextmanager
async def watched(store: PostgresqlStore) -> AsyncIterator[asyncio.Event]:
    """Another worker looks; the event is set when it has freed claims."""
    assert isinstance(store, Presence)
    freed = asyncio.Event()
    watching = Departures(store, store, "watcher", clock=SystemClock(), instrumentation=Silent())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watching.watch(freed.set))
        yield freed
        task.cancel()


async def test_claims_of_a_process_that_ended_are_free_long_before_their_lease(url: str) -> None:
    async with process(url) as here, watched(here) as freed:
        async with process(url) as there:
            await there.present("there")
            await hold_a_claim(there, "there")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2 * SILENT):
                    await freed.wait()
            assert not await is_free(here), "silent, and yet there: a slow worker keeps its claims until the lease ends"
        async with asyncio.timeout(20):
            await freed.wait()
        assert await is_free(here)
        assert await here.query("SELECT id FROM millstream_workers") == []
        taken = await here.transact(lambda session: claims.take(session, 7, 0, "watcher", HOUR_US, 500))
        assert taken is not None
        assert taken.suspect == 500, "nobody released it: one of its messages may have killed the holder (rule C4)"


async def test_a_worker_that_lost_a_connection_and_gives_signs_of_life_keeps_its_claims(url: str) -> None:
    async with process(url) as here, process(url) as there:
        await hold_a_claim(there, "there")  # nothing shows that it is there, as after a connection was lost
        async with watched(here) as freed:
            for _ in range(15):
                await sign(there, "there")
                await asyncio.sleep(0.2)
            assert not freed.is_set()
            assert not await is_free(here)
            async with asyncio.timeout(20):
                await freed.wait()  # no sign any more


async def test_whoever_reconnects_is_there_again(url: str) -> None:
    async with process(url) as here, process(url) as there:
        await there.present("there")
        assert await here.gone(["there", "nobody"]) == ["nobody"]
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as operator:
            await operator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
            )
        async with asyncio.timeout(20):
            while await here.gone(["there"]):  # noqa: ASYNC110 - another connection of this test comes back
                await asyncio.sleep(LOOK)


async def test_a_worker_of_the_same_name_in_another_schema_is_another_worker(
    server: PostgresqlServer, url: str
) -> None:
    async with (
        PostgresqlStore(database_of(url, "one")) as one,
        PostgresqlStore(database_of(url, "two")) as two,
    ):
        await one.present("w")
        assert await one.gone(["w"]) == []
        assert await two.gone(["w"]) == ["w"]
