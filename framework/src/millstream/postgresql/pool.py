"""Connections that are there when they are wanted: a pool for transactions, and one connection that short reads share.

A lost connection costs who used it a `StoreUnavailable`, and nobody else anything: the next one is opened when somebody
waits for it. No wait is endless: opening has a time limit, every exchange has one, and when nothing can be opened all
who wait are told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, final

from psycopg import pq

from ..errors import Misconfigured, StoreUnavailable
from ..ports.store import Row
from .connection import NO_PARAMETERS, Bound, Connection, Exchange
from .errors import Again, translated

__all__ = ["BEGIN", "COMMIT", "ROLLBACK", "Lease", "Open", "Pool", "SharedConnection", "run"]

Open = Callable[[], Awaitable[Connection]]
BEGIN: Bound = (b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", NO_PARAMETERS)
COMMIT: Bound = (b"COMMIT", NO_PARAMETERS)
ROLLBACK: Bound = (b"ROLLBACK", NO_PARAMETERS)
CLOSE_SECONDS = 15.0


class Lease(Protocol):
    """Who waits for a connection. Exactly one of `begin` and `unavailable` is called, unless it is no longer wanted."""

    @property
    def wanted(self) -> bool: ...

    def begin(self, connection: Connection) -> None:
        """Use the connection until `Pool.release`."""
        ...

    def unavailable(self, error: StoreUnavailable) -> None: ...


@final
class Pool:
    """Up to `size` connections, opened as they are wanted and kept. Use with `async with`: it opens the first one.

    `name` is what errors call it.
    """

    def __init__(self, open_: Open, size: int, name: str) -> None:
        self._open = open_
        self._size = size
        self._name = name
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._waiting: deque[Lease] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._handing_out = False
        self._closed = True
        self._emptied: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self._add(await self._open())
        self._closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Refuse what waits, let what runs come to its end, close."""
        self._closed = True
        self._refuse(StoreUnavailable(f"{self._name}: closed"))
        for task in self._opening:
            task.cancel()
        if self._opening:
            await asyncio.wait(self._opening)
        if self._busy:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=CLOSE_SECONDS)
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def busy(self) -> bool:
        """Whether anybody uses a connection or waits for one."""
        return bool(self._busy or self._waiting)

    def acquire(self, lease: Lease) -> None:
        """Give the lease a connection: at once if one is free, else in the order of the calls."""
        if self._closed:
            lease.unavailable(StoreUnavailable(f"{self._name}: closed"))
            return
        self._waiting.append(lease)
        self._hand_out()

    def release(self, connection: Connection) -> None:
        """Take a connection back. One that is lost, or not at rest, is not used again."""
        self._busy.discard(connection)
        if connection.lost is None:
            if connection.pending or connection.in_transaction:
                connection.close("it was given back in the middle of a transaction")
            else:
                self._idle.append(connection)
        if self._emptied is not None and not self._busy and not self._emptied.done():
            self._emptied.set_result(None)
        self._hand_out()

    async def run(
        self, statements: Sequence[Bound], committed: Callable[[], None] = lambda: None
    ) -> list[pq.abc.PGresult]:
        """Statements as one transaction in one round trip; their results. Cancelling does not undo it: `committed` is
        called when it has committed, also when nobody waits for the results any more.

        Raises:
            MillstreamError: what went wrong, as `errors.translated` has it.
        """
        once = _Once(self, (BEGIN, *statements, COMMIT), committed)
        self.acquire(once)
        return (await once.future)[1:-1]

    # -- inside -------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        if self._handing_out:  # a lease that ends while it begins gives its connection back from in here
            return
        self._handing_out = True
        try:
            while self._waiting and self._idle:
                lease = self._waiting.popleft()
                if lease.wanted:
                    connection = self._idle.pop()
                    self._busy.add(connection)
                    lease.begin(connection)
        finally:
            self._handing_out = False
        while (
            not self._closed
            and len(self._opening) < len(self._waiting)
            and len(self._idle) + len(self._busy) + len(self._opening) < self._size
        ):
            task = asyncio.get_running_loop().create_task(self._open_one())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    async def _open_one(self) -> None:
        self._add(await self._open())

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            if not self._closed:
                self._hand_out()
        # With others at work it may be that the server has no place for one more: they will come back.
        elif not self._busy and not self._idle and not self._opening:
            self._refuse(StoreUnavailable(f"{self._name}: {error}"), error)

    def _add(self, connection: Connection) -> None:
        connection.on_lost = lambda _: self._lost(connection)
        self._idle.append(connection)

    def _lost(self, connection: Connection) -> None:
        # One that is busy is given back by its user, who is told first.
        if connection in self._idle:
            self._idle.remove(connection)

    def _refuse(self, error: StoreUnavailable, cause: BaseException | None = None) -> None:
        error.__cause__ = cause
        waiting, self._waiting = self._waiting, deque()
        for lease in waiting:
            if lease.wanted:
                lease.unavailable(error)


class _Once:
    """A lease for one exchange."""

    def __init__(self, pool: Pool, statements: Sequence[Bound], committed: Callable[[], None]) -> None:
        self._pool = pool
        self._statements = statements
        self._committed = committed
        self._connection: Connection | None = None
        self.future: asyncio.Future[list[pq.abc.PGresult]] = asyncio.get_running_loop().create_future()

    @property
    def wanted(self) -> bool:
        return not self.future.done()

    def begin(self, connection: Connection) -> None:
        self._connection = connection
        connection.send(self._statements, self._replied)

    def unavailable(self, error: StoreUnavailable) -> None:
        self.future.set_exception(error)

    def _replied(self, exchange: Exchange) -> None:
        assert self._connection is not None
        if exchange.error is not None:
            connection = self._connection
            connection.send((ROLLBACK,), lambda _: self._pool.release(connection))
        else:
            self._pool.release(self._connection)
            if exchange.lost is None:
                self._committed()
        _settle(self.future, exchange)


@final
class SharedConnection:
    """One connection for single statements of many callers, answered in order. Opened when it is first used, and again
    after it was lost."""

    def __init__(self, open_: Open, name: str) -> None:
        self._open = open_
        self._name = name
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._closed = False

    async def fetch(self, statement: Bound) -> list[Row]:
        """The rows of one statement, a transaction of its own.

        Raises:
            MillstreamError: what went wrong, as `errors.translated` has it.
        """
        connection = self._connection
        if connection is None or connection.lost is not None:
            connection = await self._reopened()
        try:
            (result,) = await run(connection, (statement,))
        except Again:
            (result,) = await run(connection, (statement,))
        return connection.rows(result)

    @property
    def busy(self) -> bool:
        """Whether a statement is under way."""
        return self._opening is not None or (self._connection is not None and self._connection.pending > 0)

    def close(self) -> None:
        """Close; who waits is told. Idempotent."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._connection.close()

    async def _reopened(self) -> Connection:
        if self._closed:
            raise StoreUnavailable(f"{self._name}: closed")
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._connect())
        opening = self._opening
        # Several wait for it: one that is cancelled must not take it from the others.
        await asyncio.wait([opening])
        if opening.cancelled():
            raise StoreUnavailable(f"{self._name}: closed")
        try:
            return opening.result()
        except Misconfigured as error:  # it was right when the store was opened
            raise StoreUnavailable(f"{self._name}: {error}") from error

    async def _connect(self) -> Connection:
        try:
            self._connection = await self._open()
            return self._connection
        finally:
            self._opening = None


async def run(connection: Connection, statements: Sequence[Bound]) -> list[pq.abc.PGresult]:
    """Send statements over a connection of one's own and wait for their results.

    Raises:
        MillstreamError: what went wrong, as `errors.translated` has it.
    """
    future: asyncio.Future[list[pq.abc.PGresult]] = asyncio.get_running_loop().create_future()
    connection.send(statements, lambda exchange: _settle(future, exchange))
    return await future


def _settle(future: asyncio.Future[list[pq.abc.PGresult]], exchange: Exchange) -> None:
    if future.done():
        return
    if exchange.error is not None:
        future.set_exception(translated(exchange.error))
    elif exchange.lost is not None:
        future.set_exception(exchange.lost)
    else:
        future.set_result(exchange.results)
