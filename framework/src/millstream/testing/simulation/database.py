"""A database server that several simulated processes share, and the store port on it.

SQL is SQLite's, so that the kernel's statements run for real; what is a server's is simulated: every statement is a round
trip, a transaction is lost with its connection or when it stands idle for too long, a commit may be done without anybody
learning it, and whoever is killed or paused leaves a transaction behind that the server takes back. Sessions are those of
the SQLite store; their bodies are driven from trip to trip.

Stricter than PostgreSQL in one point: transactions that write follow one another. What rests on several of them at once (the
slots of rule T4, statements of one transaction that see different commits) is tested on PostgreSQL itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, final

import apsw  # noqa: TID251 - the engine below the simulated server

from ...clock import Clock
from .machine import START_US
from .process import Process, current

if TYPE_CHECKING:
    from .shared_store import Transaction

__all__ = ["Database"]

IDLE_SECONDS = 2.0
"""A transaction that sends nothing for so long is ended: below the third of a lease at which batches are cut."""


@final
class Database:
    """The server's side. Open until `close`.

    lose: whether a connection breaks now; asked at every statement. delay: seconds of one way, and of a sync.
    """

    def __init__(
        self,
        path: Path,
        *,
        random: Random,
        delay: Callable[[], float],
        lose: Callable[[], bool] = lambda: False,
        outside: Context | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.path = path
        self.random = random
        self.delay = delay
        self.lose = lose
        self.outside = outside
        self._clock = clock
        self.signals: dict[str, list[tuple[Callable[[], object], Process | None, Context]]] = {}
        self._waiting: deque[Transaction] = deque()
        self._current: Transaction | None = None
        self._loop: asyncio.AbstractEventLoop
        self.committed: Callable[[], object] = lambda: None
        """Called after every commit: where a scenario looks at what must hold at all times."""
        self.writer = self._connect()
        self.cursor = self.writer.cursor()
        self.reader = self._connect()
        self.reader.pragma("query_only", 1)

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), statementcachesize=256)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "off")  # the machine below does not fail; the server's sync is simulated
        connection.pragma("foreign_keys", 1)
        connection.create_scalar_function("millstream_now", lambda *_: self._now_us(), 0)
        return connection

    def _now_us(self) -> int:
        if self._clock is not None:
            return self._clock.now_us()
        # The server's own clock: right, whatever the process that asks believes.
        return START_US + round(asyncio.get_running_loop().time() * 1e6)

    def close(self) -> None:
        """Nobody uses it any more."""
        self.reader.close(True)
        self.writer.close(True)

    def begin(self) -> None:
        """For sessions: the transaction has begun already."""

    # -- one writer after another -----------------------------------------------------------------------------------

    def enter(self, transaction: Transaction) -> None:
        """A transaction asks to begin."""
        self._loop = asyncio.get_running_loop()
        self._waiting.append(transaction)
        self._next()

    def leave(self, transaction: Transaction) -> None:
        """Undo a transaction, begun or not: its connection is gone, or the client asks for it."""
        if transaction is self._current:
            with suppress(apsw.Error):
                if self.writer.in_transaction:
                    self.writer.execute("ROLLBACK")
            self._current = None
            self._next()
        elif transaction in self._waiting:
            self._waiting.remove(transaction)

    def commit(self, transaction: Transaction) -> None:
        """Make a transaction durable.

        Raises:
            apsw.Error: it could not be; it is undone.
        """
        try:
            self.writer.execute("COMMIT")
        finally:
            self.leave(transaction)
        self.committed()

    def holds(self, transaction: Transaction) -> bool:
        """Whether the server still knows this transaction."""
        return transaction is self._current

    def _next(self) -> None:
        while self._current is None and self._waiting:
            transaction = self._waiting.popleft()
            self._current = transaction
            self.writer.execute("BEGIN IMMEDIATE")
            self._later(self.delay(), transaction.granted, context=transaction.context)
            self._watch(transaction)

    def _watch(self, transaction: Transaction) -> None:
        def look() -> None:
            if transaction is not self._current:
                return
            left = transaction.last_word + IDLE_SECONDS - self._loop.time()
            if left > 0:
                self._later(left, look, context=self.outside)
            else:
                self.leave(transaction)

        self._later(IDLE_SECONDS, look, context=self.outside)

    def _later(self, delay: float, act: Callable[[], object], *, context: Context | None) -> None:
        self._loop.call_later(delay, act, context=context)

    # -- notifications ----------------------------------------------------------------------------------------------

    def listen(self, channel: str, wake: Callable[[], object], context: Context) -> Callable[[], None]:
        """Call `wake` after commits that notify the channel; returns how to end that."""
        entry = (wake, current(), context)
        self.signals.setdefault(channel, []).append(entry)

        def end() -> None:
            with suppress(ValueError):
                self.signals[channel].remove(entry)

        return end

    def notify(self, channels: list[str]) -> None:
        """After a commit: tell who listens, each in its own time."""
        for channel in dict.fromkeys(channels):
            for wake, process, context in list(self.signals.get(channel, ())):
                if process is None or process.alive:
                    self._later(self.delay(), wake, context=context)
