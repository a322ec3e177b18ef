"""A service's store over the engine that the application has: its pool, its options, its listeners.

Transactions run on connections of the engine, so that a handler's `tx.session` and the inbox, the outbox and the position
of its message commit together. Everything beside transactions (short reads, scans, wake-ups, migrations) goes over a few
connections of the framework's own to the same database.

Guaranteed as by the PostgreSQL store: READ COMMITTED, time limits below a claim's lease, foreign waits are refused (a wait
inside of SQLAlchemy is the session's own), work runs again after a deadlock. It is slower: each of the kernel's statements is
a round trip, where that store sends many in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar, cast, final

import msgspec
from sqlalchemy import Connection, event
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker

from ...clock import Clock, SystemClock
from ...delivery.driving import in_transaction, watched
from ...delivery.outbox import OUTBOX_CHANNEL
from ...errors import Misconfigured, StoreUnavailable
from ...ports.instrumentation import Instrumentation, Silent
from ...ports.store import Param, Row, Session, Signal, StoreCapabilities
from ...ports.transport import Durability
from ...postgresql.database import database_of
from ...postgresql.errors import Again
from ...stores.postgresql import PostgresqlStore
from ..bell import Bell
from ..statements import Place
from .drivers import driver_of, meaning_of
from .session import SqlalchemySession, Types

__all__ = ["SqlalchemyStore"]

R = TypeVar("R")
OWN = ("sqlalchemy", driver_of.__module__)
"""Where a transaction may wait."""
TRIES = 12
PAUSE_SECONDS = 0.005
LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


@final
class SqlalchemyStore:
    """Open with `async with`; closing leaves the engine as it is.

    engine: of postgresql+asyncpg or postgresql+psycopg. sessions: makes the sessions of handlers, for their options and class;
    its own `bind` is not used. url: where the framework's own connections go, if the engine's URL does not say
    it all (a `creator`, a token as password).
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        sessions: async_sessionmaker[Any] | None = None,
        url: str | None = None,
        clock: Clock | None = None,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        if engine.dialect.name != "postgresql" or engine.dialect.driver not in ("asyncpg", "psycopg"):
            raise Misconfigured(
                f"SqlalchemyStore: {engine.dialect.name}+{engine.dialect.driver}: it takes an engine of "
                "postgresql+asyncpg or postgresql+psycopg"
            )
        plain = engine.url.set(drivername="postgresql", query={})
        database = database_of(url or plain.render_as_string(hide_password=False), "application")
        # Without a schema the tables are where the role's search path finds them, as for the application.
        self._database = msgspec.structs.replace(database, schema=None, connections=1)
        self._engine = engine
        self._sessions = sessions
        self._instrumentation = instrumentation or Silent()
        self._beside = PostgresqlStore(self._database, clock=clock, instrumentation=instrumentation)
        self._clock_in_hand = None if clock is None or isinstance(clock, SystemClock) else clock
        self._types: Types = {}
        self._running: dict[Connection, SqlalchemySession] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._random = Random()
        self._closed = True

    @property
    def capabilities(self) -> StoreCapabilities:
        return msgspec.structs.replace(self._beside.capabilities, name="sqlalchemy")

    async def durability(self) -> Durability:
        return await self._beside.durability()

    async def transact(self, work: Callable[[Session], Awaitable[R]]) -> R:
        if in_transaction():
            await asyncio.sleep(0)  # a wait that is not the outer transaction's: whoever drives that one names the line
        if self._closed:
            raise StoreUnavailable(f"{self._database.shown}: closed")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        # Once the work has started it runs to its end, whatever becomes of its caller (rule T2). Nor is SQLAlchemy
        # cancelled while it connects: the connection would be nobody's.
        task = loop.create_task(self._run(work, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await answer

    async def query(self, sql: str, *params: Param) -> list[Row]:
        return await self._beside.query(sql, *params)

    async def scan(self, sql: str, *params: Param) -> list[Row]:
        return await self._beside.scan(sql, *params)

    async def script(self, sql: str) -> None:
        await self._beside.script(sql)
        self._types.clear()

    def listen(self, channel: str) -> Signal:
        signal = self._beside.listen(channel)
        if channel != OUTBOX_CHANNEL:
            return signal
        # The application's own `Outbox` publishes into the same table, and rings.
        return Bell(signal, self._database, Place(), self._instrumentation)

    async def __aenter__(self) -> Self:
        await self._beside.__aenter__()
        event.listen(self._engine.sync_engine, "handle_error", self._failed)
        event.listen(self._engine.sync_engine, "rollback_savepoint", self._recovered)
        self._closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Refuse what comes, let what runs come to its end."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        event.remove(self._engine.sync_engine, "handle_error", self._failed)
        event.remove(self._engine.sync_engine, "rollback_savepoint", self._recovered)
        await self._beside.__aexit__(kind, error, trace)

    # -- one transaction ------------------------------------------------------------------------------------------

    async def _connect(self) -> AsyncConnection:
        connection = self._engine.connect()
        try:
            await connection.start()
            await connection.execution_options(isolation_level="READ COMMITTED")
        except NoConnection as error:
            raise StoreUnavailable(
                f"{self._database.shown}: the engine's pool has no connection left: {error}"
            ) from error
        except Exception as error:
            raise meaning_of(error) or error from error
        return connection

    async def _run(self, work: Callable[[Session], Awaitable[R]], answer: asyncio.Future[R]) -> None:
        try:
            connection = await self._connect()
            try:
                result = await self._tried(connection, work, answer)
            finally:
                with suppress(Exception):
                    await connection.close()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(result)

    async def _tried(
        self, connection: AsyncConnection, work: Callable[[Session], Awaitable[R]], answer: asyncio.Future[R]
    ) -> R:
        for tried in range(1, TRIES):
            try:
                return await self._attempt(connection, work, answer)
            except Again:
                if connection.invalidated:
                    raise
            await asyncio.sleep(self._random.random() * PAUSE_SECONDS * 2 ** min(tried, 6))
        return await self._attempt(connection, work, answer)

    async def _attempt(
        self, connection: AsyncConnection, work: Callable[[Session], Awaitable[R]], answer: asyncio.Future[R]
    ) -> R:
        sync = connection.sync_connection
        assert sync is not None
        try:
            await connection.begin()
            limit = f"{round(self._database.limit_seconds * 1000)}ms"
            settings = ", ".join(f"set_config('{name}', '{limit}', true)" for name in LIMITS)
            await connection.exec_driver_sql(f"SELECT {settings}")
            raw = await connection.get_raw_connection()
        except Exception as error:
            raise meaning_of(error) or error from error
        if answer.cancelled():
            await connection.rollback()
            raise asyncio.CancelledError
        driver = driver_of(self._engine.dialect.driver, raw.driver_connection)
        session = SqlalchemySession(connection, driver, self._sessions, self._types, self._clock_in_hand)
        self._running[sync] = session
        try:
            try:
                result = await watched(self._whole(work, session), OWN)
                if session.doomed is not None:  # the work looked away; COMMIT would undo it without a word
                    raise session.doomed
            except BaseException as error:
                doomed = session.doomed
                await self._undo(connection, session)
                if isinstance(doomed, StoreUnavailable):
                    raise doomed from error  # nobody's fault, whatever the work made of it
                raise
            await self._commit(connection, session)
        finally:
            del self._running[sync]
        self._beside.committed(session.channels)
        return result

    @staticmethod
    async def _whole(work: Callable[[Session], Awaitable[R]], session: SqlalchemySession) -> R:
        result = await cast(Coroutine[Any, Any, R], work(session))
        if session.doomed is None:
            await session.before_commit()
        return result

    @staticmethod
    async def _undo(connection: AsyncConnection, session: SqlalchemySession) -> None:
        with suppress(Exception):  # then the connection is gone, and the server undoes it by itself
            await session.end()
            if connection.in_transaction():
                await connection.rollback()

    @staticmethod
    async def _commit(connection: AsyncConnection, session: SqlalchemySession) -> None:
        try:
            await session.end()
            await connection.commit()
        except Exception as error:
            with suppress(Exception):
                await connection.rollback()
            meaning = meaning_of(error)
            if meaning is None or (isinstance(meaning, StoreUnavailable) and not isinstance(meaning, Again)):
                raise StoreUnavailable(f"whether the transaction committed is unknown: {error}") from error
            raise meaning from error

    # -- listeners --------------------------------------------------------------------------------------------------

    def _failed(self, context: Any) -> None:
        session = None if context.connection is None else self._running.get(context.connection)
        if session is not None:
            session.failed(context.original_exception)

    def _recovered(self, connection: Connection, _name: str, _context: object) -> None:
        session = self._running.get(connection)
        if session is not None:
            session.recovered()
