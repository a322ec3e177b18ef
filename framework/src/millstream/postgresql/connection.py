"""One connection that pipelines: statements travel together, their results are read when they come, in order.

psycopg connects (names, TLS, passwords, time-outs); from there on this drives libpq's pipeline mode directly: one reader
on the event loop for the life of the connection, no task, no lock and no future a statement (ADR 0011).

An exchange is what is sent in one go, ended by a sync. An error in it makes the server skip the rest of that exchange,
and nothing of the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.adapt import Transformer

from ..errors import Misconfigured, StoreUnavailable
from ..ports.store import Row
from .errors import Unreachable, is_stale_plan
from .values import Encoded, use_portable_types

__all__ = ["NO_PARAMETERS", "Bound", "Connection", "Exchange", "connect"]

PREPARED_LIMIT = 400
"""Statements kept prepared by a connection; what comes later is parsed each time."""
SEEN_LIMIT = 4_000
CONNECT_SECONDS = 5
Bound = tuple[bytes, Encoded]
"""A statement and its parameters."""
NO_PARAMETERS: Encoded = ([], None)
# As numbers: an enumeration's member costs more to look up than a result to read.
_SYNC, _ABORTED = int(pq.ExecStatus.PIPELINE_SYNC), int(pq.ExecStatus.PIPELINE_ABORTED)
_ERRORS = frozenset({int(pq.ExecStatus.FATAL_ERROR), int(pq.ExecStatus.BAD_RESPONSE)})
_COPY = frozenset({int(pq.ExecStatus.COPY_IN), int(pq.ExecStatus.COPY_OUT), int(pq.ExecStatus.COPY_BOTH)})
_BAD, _IDLE = int(pq.ConnStatus.BAD), int(pq.TransactionStatus.IDLE)
# libpq tells why a connection was refused in words only, and the server says these in English to whom it does not know.
_REFUSALS = (
    "does not exist",
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "permission denied",
)


@final
class Exchange:
    """What was sent in one go, and what came back: a result for each statement until one failed.

    `error` is the result of the statement that failed, number `len(results)`; `lost` says that the connection broke
    before all was known.
    """

    __slots__ = ("_done", "error", "lost", "preparing", "results", "sent")

    def __init__(self, sent: float, done: Callable[[Exchange], None]) -> None:
        self.results: list[pq.abc.PGresult] = []
        self.error: pq.abc.PGresult | None = None
        self.lost: StoreUnavailable | None = None
        self.sent = sent
        self.preparing: list[bytes | None] = []
        """For each message: the text that it prepares, or None for a statement that runs."""
        self._done = done

    def take(self, result: pq.abc.PGresult, status: int, at: int) -> None:
        """The result of the `at`-th message of this exchange."""
        if status == _ABORTED or self.error is not None:
            return
        if status in _ERRORS:
            self.error = result
        elif self.preparing[at] is None:
            self.results.append(result)

    def finish(self, lost: StoreUnavailable | None = None) -> None:
        self.lost = lost
        self._done(self)


@final
class Connection:
    """An open connection. Not shared between transactions; several single statements may be under way at once.

    reply_seconds: how long the server may take for an exchange before it counts as gone.
    """

    def __init__(self, raw: AsyncConnection[Any], reply_seconds: float) -> None:
        self._raw = raw
        self._pg = raw.pgconn
        self._loop = asyncio.get_running_loop()
        self._reply_seconds = reply_seconds
        self._pending: deque[Exchange] = deque()
        self._at = 0
        self._writing = False
        self._prepared: dict[bytes, bytes] = {}
        self._names = 0
        self._seen: set[bytes] = set()
        self._watch: asyncio.TimerHandle | None = None
        self.lost: StoreUnavailable | None = None
        self.on_notify: Callable[[str, str, int], None] | None = None
        """Called with channel, payload and the sender's process."""
        self.on_lost: Callable[[StoreUnavailable], None] | None = None
        use_portable_types(raw)
        self._rows = Transformer(raw)
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._socket = self._pg.socket
        self._loop.add_reader(self._socket, self._readable)

    @property
    def pending(self) -> int:
        """Exchanges under way."""
        return len(self._pending)

    @property
    def in_transaction(self) -> bool:
        """As of the last reply."""
        return self._pg.transaction_status != _IDLE

    @property
    def backend_pid(self) -> int:
        return self._pg.backend_pid

    def send(self, statements: Sequence[Bound], done: Callable[[Exchange], None]) -> None:
        """Send statements and a sync; `done` is called once, when all is known or the connection is lost.

        It may be called before this returns, and it may send in its turn.
        """
        pg = self._pg
        exchange = Exchange(self._loop.time(), done)
        preparing = exchange.preparing
        if self.lost is not None:
            exchange.finish(self.lost)
            return
        try:
            for text, (values, formats) in statements:
                name = self._prepared.get(text)
                if name is None and text in self._seen and len(self._prepared) < PREPARED_LIMIT:
                    self._names += 1
                    name = self._prepared[text] = b"s%d" % self._names
                    pg.send_prepare(name, text)
                    preparing.append(text)
                if name is not None:
                    pg.send_query_prepared(name, values, formats)
                else:
                    if len(self._seen) >= SEEN_LIMIT:
                        self._seen.clear()
                    self._seen.add(text)
                    pg.send_query_params(text, values, None, formats)
                preparing.append(None)
            pg.pipeline_sync()
            self._pending.append(exchange)
            self._write()
        except psycopg.OperationalError as error:
            if exchange not in self._pending:
                self._pending.append(exchange)
            self._lose(Unreachable(f"the connection is lost: {_words(error)}"))
            return
        if self._watch is None:
            self._watch = self._loop.call_later(self._reply_seconds, self._look)

    def rows(self, result: pq.abc.PGresult) -> list[Row]:
        """The rows of a result."""
        if not result.ntuples:
            return []
        self._rows.set_pgresult(result)
        return self._rows.load_rows(0, result.ntuples, tuple)

    def close(self, why: str = "closed") -> None:
        """Close now. What is under way is lost. Idempotent."""
        self._lose(Unreachable(f"the connection was closed: {why}"))

    # -- the socket ---------------------------------------------------------------------------------------------

    def _write(self) -> None:
        waiting = self._pg.flush()
        if waiting and not self._writing:
            self._writing = True
            self._loop.add_writer(self._socket, self._writable)
        elif not waiting and self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)

    def _writable(self) -> None:
        try:
            self._write()
        except psycopg.OperationalError as error:
            self._lose(Unreachable(f"the connection is lost: {_words(error)}"))

    def _readable(self) -> None:
        try:
            self._pg.consume_input()
            if self._writing:
                self._write()
            self._take_results()
            if self.on_notify is not None and self.lost is None:
                while (notified := self._pg.notifies()) is not None:
                    self.on_notify(notified.relname.decode(), notified.extra.decode(), notified.be_pid)
        except psycopg.OperationalError as error:
            self._lose(Unreachable(f"the connection is lost: {_words(error)}"))
            return
        if self._pg.status == _BAD:
            self._lose(Unreachable("the server closed the connection"))

    def _take_results(self) -> None:
        pg, pending = self._pg, self._pending
        while pending and not pg.is_busy():
            result = pg.get_result()
            if result is None:  # the end of a statement's results
                if pg.status == _BAD:
                    return
                self._at += 1
            elif (status := result.status) == _SYNC:
                self._at = 0
                exchange = pending.popleft()
                if exchange.error is not None:
                    self._forget(exchange, exchange.error)
                exchange.finish()
                if self.lost is not None:
                    return
            elif status in _COPY:
                self._lose(Unreachable("COPY does not travel in a pipeline"))
                return
            else:
                pending[0].take(result, status, self._at)

    def _forget(self, exchange: Exchange, error: pq.abc.PGresult) -> None:
        """What an exchange that failed was to prepare may have been skipped; a plan that no longer fits its table makes
        all others doubtful too."""
        if is_stale_plan(error):
            self._prepared.clear()
        for text in exchange.preparing:
            if text is not None:
                self._prepared.pop(text, None)

    def _look(self) -> None:
        """A server that answers nobody (stopped, or behind a cut wire) is found out here, in bounded time."""
        self._watch = None
        if self._pending:
            left = self._pending[0].sent + self._reply_seconds - self._loop.time()
            if left <= 0:
                self._lose(Unreachable(f"the server did not answer within {self._reply_seconds:.0f} s"))
            else:
                self._watch = self._loop.call_later(left, self._look)

    def _lose(self, error: StoreUnavailable) -> None:
        if self.lost is not None:
            return
        self.lost = error
        self._loop.remove_reader(self._socket)
        if self._writing:
            self._loop.remove_writer(self._socket)
        if self._watch is not None:
            self._watch.cancel()
        self._pg.finish()
        pending, self._pending = self._pending, deque()
        for exchange in pending:
            exchange.finish(error)
        if self.on_lost is not None:
            self.on_lost(error)


async def connect(conninfo: str, settings: Mapping[str, str], reply_seconds: float) -> Connection:
    """Open a connection to the primary with these settings of its session.

    Raises:
        StoreUnavailable: nobody answers, or it is starting or stopping, or has no place for one more.
        Misconfigured: it refuses the user, the password or the database.
    """
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    try:
        raw = await AsyncConnection.connect(
            conninfo,
            autocommit=True,
            options=options,
            client_encoding="UTF8",
            # Behind several addresses a standby may answer: rows are read from the primary only (rule R1).
            target_session_attrs="primary",
            connect_timeout=CONNECT_SECONDS,
        )
    except psycopg.OperationalError as error:
        text = _words(error)
        if any(refusal in text for refusal in _REFUSALS):
            raise Misconfigured(f"PostgreSQL refuses: {text}") from error
        raise StoreUnavailable(f"PostgreSQL cannot be reached: {text}") from error
    return Connection(raw, reply_seconds)


def _words(error: BaseException) -> str:
    """The first line of what libpq says: it names host and port, and no password."""
    return str(error).strip().partition("\n")[0]
