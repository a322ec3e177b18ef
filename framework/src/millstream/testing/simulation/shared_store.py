"""The client's side of the simulated database: the store port, for one process."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self, TypeVar, cast, final

import apsw  # noqa: TID251 - the errors of the engine below the simulated server

from ...clock import Clock
from ...delivery.driving import Driven, drive
from ...errors import MillstreamError, StoreUnavailable
from ...ports.store import Param, Row, Session, Signal, StoreCapabilities
from ...ports.transport import Durability
from ...ports.wake import Wake
from ...sqlite.many import Insert
from ...stores.sqlite import SqliteSession, translated
from .database import Database
from .process import current

__all__ = ["SharedStore", "Transaction"]

R = TypeVar("R")
WAIT: object = object()
"""What a session's trips yield to whoever drives the transaction."""
SCAN_SECONDS = 0.4
"""How long a long read takes."""


class SharedStore:
    """One process's connections to a `Database`."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self.database = database
        self._clock = clock
        self._open = False
        self._under_way: dict[Transaction, None] = {}
        self._idle: asyncio.Future[None] | None = None

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(
            name="simulated",
            survives_restart=True,
            several_processes=True,
            cheap_savepoints=False,
            dialect="sqlite",
        )

    async def durability(self) -> Durability:
        return Durability(process_crash=True, power_loss=True)

    async def transact(self, work: Callable[[Session], Awaitable[R]]) -> R:
        self._check_open()
        transaction = Transaction(self, cast(Callable[[Session], Coroutine[Any, Any, Any]], work))
        self._under_way[transaction] = None
        transaction.start()
        return await transaction.future

    async def query(self, sql: str, *params: Param) -> list[Row]:
        return await self._read(0.0, sql, params)

    async def scan(self, sql: str, *params: Param) -> list[Row]:
        return await self._read(SCAN_SECONDS, sql, params)

    async def _read(self, takes: float, sql: str, params: tuple[Param, ...]) -> list[Row]:
        self._check_open()
        database = self.database
        await asyncio.sleep(database.delay() + takes)
        if database.lose():
            raise StoreUnavailable("the connection was lost while reading")
        self._check_open()
        try:
            rows = database.reader.execute(sql, params).fetchall()
        except apsw.Error as error:
            raise translated(error) from error
        await asyncio.sleep(database.delay())
        return rows

    async def script(self, sql: str) -> None:
        database = self.database

        async def run(_session: Session) -> None:
            try:
                for _ in database.writer.execute(sql):
                    pass
            except apsw.Error as error:
                raise translated(error) from error

        await self.transact(run)

    def listen(self, channel: str) -> Signal:
        return _Listening(self._clock, self.database, channel)

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        while self._under_way:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def _check_open(self) -> None:
        process = current()
        if process is not None:
            process.check()
        if not self._open:
            raise StoreUnavailable("the simulated database: closed")

    def ended(self, transaction: Transaction) -> None:
        """A transaction is over."""
        self._under_way.pop(transaction, None)
        if not self._under_way and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)


@final
class Transaction:
    """From its request to its answer; between them its body runs whenever an answer has come."""

    def __init__(self, store: SharedStore, work: Callable[[Session], Coroutine[Any, Any, Any]]) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.context = copy_context()
        self.over = False
        """Its work has ended."""
        self.last_word = 0.0
        """When the server last heard of it."""
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._database = store.database
        self._work = work
        self._session = SharedSession(self._database, self)
        self._driven: Driven[Any]
        process = current()
        self._forget = process.fence(lambda: self._database.leave(self)) if process is not None else _nothing

    def start(self) -> None:
        """Ask the server to begin."""
        self._loop.call_later(self._database.delay(), self._arrive, context=self._database.outside)

    def _arrive(self) -> None:
        self.last_word = self._loop.time()
        self._database.enter(self)

    def granted(self) -> None:
        """The server has begun; here, in the process, the body starts."""
        if self.future.cancelled():  # cancelled before it started: it never runs
            self._end(None, None)
            return
        self._driven = Driven(self._work(cast(Session, self._session)), WAIT, self.context.copy())
        self._advance()

    def check(self) -> None:
        """Raises:
        StoreUnavailable: the server has ended it.
        """
        if not self._database.holds(self):
            raise StoreUnavailable("the server ended the transaction")
        self.last_word = self._loop.time()

    def _advance(self) -> None:
        try:
            done = self._driven.advance()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            self._end(None, error)
            return
        if done:
            self.over = True
            self._session.inner.end()
            self._loop.call_later(self._database.delay(), self._commit, context=self._database.outside)
            return
        if self._database.lose():
            self._database.leave(self)  # the next statement learns it
        self._loop.call_later(self._database.delay(), self._advance, context=self.context)

    def _commit(self) -> None:
        """The request arrived at the server."""
        database, session = self._database, self._session
        error: BaseException | None = None
        lost = database.lose()
        if not database.holds(self) or (lost and database.random.random() < 0.5):
            database.leave(self)
            error = StoreUnavailable("the connection was lost before the commit")
        else:
            try:
                for rows, values in session.rows:
                    rows.run(database.cursor, values)
                database.commit(self)
            except apsw.Error as caught:
                error = translated(caught)
            else:
                database.notify(session.inner.channels)
                if lost:
                    error = StoreUnavailable("whether the transaction committed is unknown: the connection was lost")
        self._loop.call_later(database.delay(), lambda: self._end(self._driven.result, error), context=self.context)

    def _end(self, result: Any, error: BaseException | None) -> None:
        self.over = True
        self._session.inner.end()
        self._database.leave(self)
        self._forget()
        if not self.future.done():
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(result)
        self._store.ended(self)


def _nothing() -> None: ...


@types.coroutine
def _trip() -> Generator[object, None, None]:
    yield WAIT


@final
class SharedSession:
    """SQL inside one transaction: each statement whose result somebody reads is a round trip."""

    def __init__(self, database: Database, transaction: Transaction) -> None:
        self.inner = SqliteSession(database, database.writer)
        self.rows: list[tuple[Insert, Sequence[Sequence[Param]]]] = self.inner.appended
        """What is inserted with the commit."""
        self._transaction = transaction

    async def _there(self) -> None:
        if self._transaction.over:
            raise MillstreamError("this transaction has ended: a Tx is valid only until its handler returns")
        await _trip()
        self._transaction.check()

    async def execute(self, sql: str, *params: Param) -> int:
        await self._there()
        return drive(self.inner.execute(sql, *params))

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        if rows:
            await self._there()
            drive(self.inner.execute_many(sql, rows))

    async def fetch(self, sql: str, *params: Param) -> list[Row]:
        await self._there()
        return drive(self.inner.fetch(sql, *params))

    async def fetch_one(self, sql: str, *params: Param) -> Row | None:
        await self._there()
        return drive(self.inner.fetch_one(sql, *params))

    async def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> list[bool]:
        await self._there()
        return drive(self.inner.insert_new(table, columns, rows))

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> None:
        self.inner.append(table, columns, rows)

    def queue(self, sql: str, params: Sequence[Param], check: Callable[[int], None] | None = None) -> None:
        self._transaction.check()
        self.inner.queue(sql, params, check)

    def queue_fetch(self, sql: str, params: Sequence[Param], take: Callable[[list[Row]], object]) -> None:
        self._transaction.check()
        take(drive(self.inner.fetch(sql, *params)))

    async def flush(self) -> None: ...

    async def lock_slots(self, slots: Sequence[int]) -> None:
        await self._there()

    async def savepoint(self) -> None:
        await self._there()
        await self.inner.savepoint()

    async def release(self) -> None:
        await self._there()
        await self.inner.release()

    async def rollback(self) -> None:
        await self._there()
        await self.inner.rollback()

    def notify(self, channel: str) -> None:
        self.inner.notify(channel)


class _Listening(Wake):
    """A wake-up that comes from the server."""

    __slots__ = ("_end",)

    def __init__(self, clock: Clock, database: Database, channel: str) -> None:
        super().__init__(clock)
        self._end = database.listen(channel, self.set, copy_context())

    def close(self) -> None:
        self._end()
