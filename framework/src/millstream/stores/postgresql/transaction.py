"""One transaction from its turn in the pool to its answer, driven by the connection's replies.

There is no task: the body runs on when the reply that it waits for has come. So a caller that is cancelled takes
nothing away; what it started runs to its commit, and the store waits for that when it closes (rule T2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Any, Generic, Protocol, TypeVar, cast, final

from ...clock import Clock
from ...delivery.driving import Driven
from ...errors import StoreUnavailable
from ...ports.store import Session
from ...postgresql.connection import Connection, Exchange
from ...postgresql.errors import Again
from ...postgresql.pool import BEGIN, COMMIT, ROLLBACK, Pool
from .counting import Counting
from .session import WAIT, PostgresqlSession, Types

__all__ = ["Committed", "Transaction"]

R = TypeVar("R")
TRIES = 12
"""How often work runs when the engine keeps asking for it: with the pauses below, for about a second and a half."""
PAUSE_SECONDS = 0.005


class Committed(Protocol):
    """What a store shares with its transactions."""

    pool: Pool
    types: Types
    counting: Counting
    clock_in_hand: Clock | None

    def committed(self, channels: set[str] | None) -> None:
        """A transaction has committed that notifies these channels."""
        ...

    def again(self) -> float:
        """Counts a transaction that the engine wants to run again; a number from 0 to 1 to pause by."""
        ...


@final
class Transaction(Generic[R]):
    """A lease of a connection for one transaction. `future` is its answer."""

    __slots__ = ("_connection", "_context", "_driven", "_session", "_store", "_tries", "_work", "future")

    def __init__(self, store: Committed, work: Callable[[Session], Awaitable[R]]) -> None:
        self.future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._store = store
        self._work = work
        self._context = copy_context()
        self._tries = 0
        self._connection: Connection
        self._session: PostgresqlSession
        self._driven: Driven[R]

    @property
    def wanted(self) -> bool:
        return not self.future.done()

    def begin(self, connection: Connection) -> None:
        self._connection = connection
        self._start()

    def unavailable(self, error: StoreUnavailable) -> None:
        self.future.set_exception(error)

    # -- running ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._tries += 1
        store = self._store
        session = self._session = PostgresqlSession(self._connection, store.types, store.counting, store.clock_in_hand)
        self._driven = Driven(_whole(self._work, session), WAIT, self._context)
        self._advance()

    def _advance(self) -> None:
        try:
            done = self._driven.advance()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            self._undo(error)
            return
        session = self._session
        if not done:
            self._connection.send(session.outgoing, self._replied)
        elif session.doomed is not None:  # the work looked away; COMMIT would undo it without a word
            self._undo(session.doomed)
        else:
            self._commit()

    def _replied(self, exchange: Exchange) -> None:
        session = self._session
        session.outgoing = []
        session.begun = True
        session.reply = exchange
        self._advance()

    # -- ending -------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        session = self._session
        session.end()
        last = session.take_queue()
        if session.begun:
            self._connection.send((*last, COMMIT), self._committed)
        elif last:
            self._connection.send((BEGIN, *last, COMMIT), self._committed)
        else:
            self._succeed()

    def _committed(self, exchange: Exchange) -> None:
        if exchange.error is not None:
            session = self._session
            error = session.refusal(exchange.error, len(exchange.results) - (0 if session.begun else 1))
            session.begun = True
            self._undo(error)
        elif exchange.lost is not None:
            self._fail(StoreUnavailable(f"whether the transaction committed is unknown: {exchange.lost}"))
        else:
            self._succeed()

    def _succeed(self) -> None:
        self._store.committed(self._session.channels)
        if not self.future.done():
            self.future.set_result(self._driven.result)
        self._store.pool.release(self._connection)

    def _undo(self, error: BaseException) -> None:
        session = self._session
        session.end()
        if isinstance(session.doomed, Again):
            error = session.doomed  # nobody's fault, whatever the work made of it
        if session.begun and self._connection.lost is None:
            self._connection.send((ROLLBACK,), lambda _: self._undone(error))
        else:
            self._undone(error)

    def _undone(self, error: BaseException) -> None:
        if isinstance(error, Again) and self._connection.lost is None and self._tries < TRIES:
            pause = self._store.again() * PAUSE_SECONDS * 2 ** min(self._tries, 6)
            asyncio.get_running_loop().call_later(pause, self._start)
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
        self._store.pool.release(self._connection)


async def _whole(work: Callable[[Session], Awaitable[R]], session: PostgresqlSession) -> R:
    result = await cast(Coroutine[Any, Any, R], work(session))
    if session.doomed is None:
        await session.before_commit()
    return result
