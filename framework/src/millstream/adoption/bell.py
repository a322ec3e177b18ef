"""The relay's side of the bell on PostgreSQL: how it falls asleep without missing a commit (rule R2).

Who sleeps holds the bell's lock alone; who publishes shares it until its commit, or, if it cannot, notifies
(`statements.py`). So once the lock is held, every publisher that did not notify has committed: one more look at the table
sees its rows, and from then on everybody notifies.

Nobody waits for the lock. While it cannot be had, because of a long transaction or because a second relay sleeps, the
relay looks again after a short pause that grows to a tenth of a second. A lost connection lets go of the lock, so the
publishers stop notifying; the kernel's sweep each second covers that, and the next sleep begins with a new connection.
"""

from __future__ import annotations

from typing import final

from ..errors import MillstreamError
from ..ports.instrumentation import Instrumentation
from ..ports.store import Signal
from ..postgresql.connection import NO_PARAMETERS, Connection
from ..postgresql.database import Database
from ..postgresql.pool import run
from .statements import BELL_LOCKS, Place

__all__ = ["Bell"]

NAME = "millstream relay"
PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.1


@final
class Bell:
    """A signal that lets publishers know that its waiter sleeps. `inner`: the store's own, which NOTIFY sets."""

    def __init__(self, inner: Signal, database: Database, place: Place, instrumentation: Instrumentation) -> None:
        self._inner = inner
        self._database = database
        self._key = place.bell
        self._instrumentation = instrumentation
        self._connection: Connection | None = None
        self._asleep = False
        self._pause = PAUSE_SECONDS

    async def wait(self, timeout: float) -> bool:
        if not self._asleep:
            try:
                self._asleep = await self._ask("pg_try_advisory_lock")
            except MillstreamError as error:
                self._instrumentation.log("warning", "relay_bell_waits", error=str(error))
                return await self._inner.wait(timeout)
            if self._asleep:
                self._pause = PAUSE_SECONDS
                return True  # look once more before sleeping
            pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            return await self._inner.wait(min(pause, timeout))
        if self._connection is None or self._connection.lost is not None:
            self._asleep = False
            return True
        woken = await self._inner.wait(timeout)
        if woken:
            self._asleep = False
            try:
                await self._ask("pg_advisory_unlock")
            except MillstreamError:
                self._forget()  # its end lets go of the lock
        return woken

    def set(self) -> None:
        self._inner.set()

    def close(self) -> None:
        self._inner.close()
        self._forget()

    async def _ask(self, function: str) -> bool:
        connection = self._connection
        if connection is None or connection.lost is not None:
            connection = self._connection = await self._database.listener(NAME)
        statement = f"SELECT {function}({BELL_LOCKS}, {self._key})".encode()
        (result,) = await run(connection, ((statement, NO_PARAMETERS),))
        return connection.rows(result)[0][0] is True

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
