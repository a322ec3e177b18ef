"""The store on PostgreSQL: several processes of a service share one database.

A transaction takes a pooled connection and few round trips. Reads outside of transactions go over connections of their
own, to the primary, and see committed rows only (rule R1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self, TypeVar, final

from ...clock import Clock, SystemClock
from ...errors import StoreUnavailable
from ...ports.instrumentation import Instrumentation, Silent
from ...ports.store import Param, Row, Session, Signal, StoreCapabilities
from ...ports.transport import Durability
from ...postgresql.connection import Bound
from ...postgresql.database import Database, database_of, prepare, run_script
from ...postgresql.listener import LISTENER_NAME, Listener, gone
from ...postgresql.pool import Pool, SharedConnection
from ...postgresql.statements import statement
from ...postgresql.values import encoded
from .counting import Counting
from .session import Types
from .transaction import Transaction

__all__ = ["PostgresqlStore", "open_store"]

R = TypeVar("R")


@final
class PostgresqlStore:
    """One service's database. Open with `async with`.

    clock: another one than the system's also decides what `millstream_now()` is in statements of this store; tests
    with a clock in hand need that. Outside of them the server's clock decides, one for all processes.
    """

    def __init__(
        self, database: Database, *, clock: Clock | None = None, instrumentation: Instrumentation | None = None
    ) -> None:
        self.database = database
        clock = clock or SystemClock()
        self.clock_in_hand = None if isinstance(clock, SystemClock) else clock
        self._instrumentation = instrumentation or Silent()
        self._labels = (("store", database.schema or database.name),)
        self.types: Types = {}
        self.counting = Counting()
        self.pool = Pool(database.writer, database.connections, database.shown)
        self._reader = SharedConnection(database.reader, database.shown)
        self._scanner = SharedConnection(database.scanner, database.shown)
        self._random = Random()
        self.listener = Listener(
            lambda: database.listener(LISTENER_NAME),
            clock=clock,
            instrumentation=self._instrumentation,
            wire=f"millstream.{database.schema}" if database.schema else "millstream",
        )

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(
            name="postgresql",
            survives_restart=True,
            several_processes=True,
            cheap_savepoints=False,
            dialect="postgresql",
        )

    async def durability(self) -> Durability:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        sql = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
        ((fsync, commit, pages),) = await self.query(sql)
        weak: list[str] = []
        if commit == "off":
            weak.append("synchronous_commit is off: set it to on")
        if fsync != "on":
            weak.append(f"fsync is {fsync}: set it to on")
        if pages != "on":
            weak.append(f"full_page_writes is {pages}: set it to on")
        # A commit that is not waited for is in the server's memory only: its own crash loses it too.
        return Durability(process_crash=commit != "off", power_loss=not weak, why_not="; ".join(weak))

    async def transact(self, work: Callable[[Session], Awaitable[R]]) -> R:
        transaction = Transaction(self, work)
        self.pool.acquire(transaction)
        return await transaction.future

    async def query(self, sql: str, *params: Param) -> list[Row]:
        self._check_open()
        return await self._reader.fetch(self._bound(sql, params))

    async def scan(self, sql: str, *params: Param) -> list[Row]:
        self._check_open()
        return await self._scanner.fetch(self._bound(sql, params))

    async def script(self, sql: str) -> None:
        self._check_open()
        connection = await self.database.changer()
        try:
            await run_script(connection, sql)
        finally:
            connection.close()
            self.types.clear()

    @property
    def busy(self) -> bool:
        """Whether the server has something to answer: a clock in hand waits for that."""
        return self.pool.busy or self._reader.busy or self._scanner.busy

    def listen(self, channel: str) -> Signal:
        return self.listener.listen(channel)

    async def present(self, worker: str) -> None:
        """See `Presence`."""
        await self.listener.present(worker)

    async def gone(self, workers: Sequence[str]) -> list[str]:
        """See `Presence`."""
        self._check_open()
        return [worker for worker in workers if (await self._reader.fetch(gone(worker)))[0][0]]

    async def __aenter__(self) -> Self:
        await prepare(self.database)
        await self.pool.__aenter__()
        try:
            await self.listener.__aenter__()
        except BaseException:
            await self.pool.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pool.__aexit__(kind, error, trace)
        await self.listener.__aexit__(kind, error, trace)
        self._reader.close()
        self._scanner.close()

    # -- what transactions share --------------------------------------------------------------------------------

    def committed(self, channels: set[str] | None) -> None:
        """A transaction has committed that notifies these channels."""
        self._instrumentation.count("millstream_store_transactions_total", self._labels)
        if channels:
            self.listener.committed(channels)

    def again(self) -> float:
        """Counts a transaction that the engine wants to run again; a number from 0 to 1 to pause by."""
        return self._random.random()

    def _bound(self, sql: str, params: Sequence[Param]) -> Bound:
        found = statement(sql, self.clock_in_hand is not None)
        if found.now and self.clock_in_hand is not None:
            given = list(params)
            for place in found.now:
                given.insert(place, self.clock_in_hand.now_us())
            params = given
        return found.text, encoded(params)

    def _check_open(self) -> None:
        if self.pool.closed:
            raise StoreUnavailable(f"{self.database.shown}: closed")


def open_store(
    url: str,
    *,
    service: str,
    data: Path,  # noqa: ARG001 - the entry point's signature; nothing is kept in files here
    clock: Clock,
    instrumentation: Instrumentation,
) -> PostgresqlStore:
    """Entry point: `postgresql://user@host:5432` keeps each service in a database of its own, named like the service;
    `postgresql://user@host/platform` in a schema of its own.

    Raises:
        Misconfigured: lists every problem of the URL.
    """
    return PostgresqlStore(database_of(url, service), clock=clock, instrumentation=instrumentation)
