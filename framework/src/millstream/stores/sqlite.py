"""The store on SQLite: the embedded default. Statements run inline, commits are shared and durable.

Sessions never suspend, so the body of a transaction is driven in one go; anything else it waits for is an error that
names the line (rule T3).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import apsw

from ..clock import Clock, SystemClock
from ..delivery.driving import drive
from ..errors import BadStatement, Conflict, MillstreamError, StoreUnavailable
from ..ports.instrumentation import Instrumentation
from ..ports.store import Param, Row, Session, Signal, StoreCapabilities
from ..ports.transport import Durability
from ..ports.wake import Wake
from ..sqlite.file import SqliteFile
from ..sqlite.many import Insert, insert
from ..sqlite.thread import Worker

__all__ = ["SqliteSession", "SqliteStore", "Writer", "open_store", "translated"]

R = TypeVar("R")
_CONTROL = frozenset(
    {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "PRAGMA", "ATTACH", "DETACH", "VACUUM"}
)


class SqliteStore:
    """One service's database in one file. Open with `async with`."""

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        instrumentation: Instrumentation | None = None,
        synchronous: str = "FULL",
    ) -> None:
        self._clock = clock or SystemClock()
        self.file = SqliteFile(path, clock=self._clock, instrumentation=instrumentation, synchronous=synchronous)
        self._signals: dict[str, list[_Signal]] = {}
        self._notified: dict[str, None] = {}
        """Channels notified by transactions of the group at hand, each once and in order. A failed group leaves them: a
        wake-up too many is harmless."""
        self._scanner: Worker | None = None
        self._scan_connection: apsw.Connection | None = None

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(
            name="sqlite", survives_restart=True, several_processes=False, cheap_savepoints=True, dialect="sqlite"
        )

    async def durability(self) -> Durability:
        settings = self.file.settings()
        if settings["journal_mode"] == "wal" and settings["synchronous"] in (2, 3):
            return Durability(process_crash=True, power_loss=True)
        return Durability(
            process_crash=True,
            power_loss=False,
            why_not=f"synchronous is {settings['synchronous']} with journal_mode {settings['journal_mode']}; "
            "set synchronous=FULL (2) and WAL",
        )

    async def transact(self, work: Callable[[Session], Awaitable[R]]) -> R:
        return await self.file.write(partial(self._drive, work), lazy=True)

    def _drive(self, work: Callable[[Session], Awaitable[R]], connection: apsw.Connection) -> R:
        session = SqliteSession(self.file, connection)
        appended = session.appended
        try:
            result = drive(cast(Coroutine[Any, Any, R], work(session)))
        except apsw.Error as error:
            raise translated(error) from error
        finally:
            session.end()
        for rows, values in appended:
            self.file.append(rows, values)
        if session.channels:
            self._notified.update(dict.fromkeys(session.channels))
            self.file.after_commit(self._fire)
        return result

    def _fire(self) -> None:
        """After a group's commit: wake who waits on what its transactions notified, each channel once."""
        channels, self._notified = self._notified, {}
        for channel in channels:
            for signal in self._signals.get(channel, ()):
                signal.set()

    async def query(self, sql: str, *params: Param) -> list[Row]:
        try:
            return self.file.reader.execute(sql, params).fetchall()
        except apsw.Error as error:
            raise translated(error) from error

    async def scan(self, sql: str, *params: Param) -> list[Row]:
        if self.file.closed:
            raise StoreUnavailable(f"{self.file.path}: closed")
        if self._scanner is None:
            self._scanner = self.file.worker(f"{self.file.name}-scan")
            self._scan_connection = self.file.connect(read_only=True)
        connection = self._scan_connection
        assert connection is not None
        try:
            return await self._scanner.run(lambda: connection.execute(sql, params).fetchall())
        except apsw.Error as error:
            raise translated(error) from error

    async def script(self, sql: str) -> None:
        def run(connection: apsw.Connection) -> None:
            for _ in connection.execute(sql):
                pass

        try:
            await self.file.write(run)
        except apsw.Error as error:
            raise translated(error) from error

    def listen(self, channel: str) -> Signal:
        return _Signal(self._clock, self._signals.setdefault(channel, []))

    async def __aenter__(self) -> Self:
        await self.file.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._scanner is not None:
            await self._scanner.aclose()
            self._scanner = None
        if self._scan_connection is not None:
            self._scan_connection.close()
        await self.file.__aexit__(kind, error, trace)


class Writer(Protocol):
    """Whose connection a session writes by."""

    cursor: apsw.Cursor

    def begin(self) -> None:
        """What follows is undone if it fails. Called before the first statement."""
        ...


class SqliteSession:
    """A session over the writer, as one member of a group; its savepoint begins with its first statement."""

    __slots__ = ("_begun", "_connection", "_cursor", "_file", "_marks", "appended", "channels")

    def __init__(self, file: Writer, connection: apsw.Connection) -> None:
        self._file = file
        self._connection: Any = connection
        self._cursor: Any = file.cursor
        self._begun = False
        self._marks: list[int] = []
        self.appended: Any = cast(list[tuple[Insert, Sequence[Sequence[Param]]]], [])
        self.channels: list[str] = []

    def end(self) -> None:
        self._connection = self._cursor = self.appended = _Ended()
        self._begun = True

    def _begin(self) -> None:
        self._file.begin()
        self._begun = True

    async def execute(self, sql: str, *params: Param) -> int:
        try:
            if not self._begun:
                self._begin()
            connection, cursor = self._connection, self._cursor
            _statement(sql)
            before = connection.total_changes()
            cursor.execute(sql, params).fetchall()
            # changes() keeps the number of an earlier statement when this one is no write at all.
            return connection.changes() if connection.total_changes() != before else 0
        except apsw.Error as error:
            raise translated(error) from error

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        try:
            if not self._begun:
                self._begin()
            _statement(sql)
            if len(rows) == 1:
                self._cursor.execute(sql, rows[0]).fetchall()  # a third of what executemany costs for one row
            else:
                self._cursor.executemany(sql, rows).fetchall()  # a statement with RETURNING stops at its first row
        except apsw.Error as error:
            raise translated(error) from error

    async def fetch(self, sql: str, *params: Param) -> list[Row]:
        try:
            if not self._begun:
                self._begin()
            _statement(sql)
            return self._cursor.execute(sql, params).fetchall()
        except apsw.Error as error:
            raise translated(error) from error

    async def fetch_one(self, sql: str, *params: Param) -> Row | None:
        rows = await self.fetch(sql, *params)
        return rows[0] if rows else None

    async def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> list[bool]:
        try:
            if not self._begun:
                self._begin()
            return self._insert_new(insert(table, tuple(columns), "ON CONFLICT DO NOTHING"), rows)
        except apsw.Error as error:
            raise translated(error) from error

    def _insert_new(self, statement: Insert, rows: Sequence[Sequence[Param]]) -> list[bool]:
        connection, cursor = self._connection, self._cursor
        count = connection.total_changes()
        if len(rows) > 1:
            # Mostly all are new. If one is not, nobody can say which: then again, one by one.
            cursor.execute("SAVEPOINT several")
            statement.run(cursor, rows)
            if connection.total_changes() - count == len(rows):
                cursor.execute("RELEASE several")
                return [True] * len(rows)
            cursor.execute("ROLLBACK TO several")
            cursor.execute("RELEASE several")
            count = connection.total_changes()
        new = list[bool]()
        for row in rows:
            statement.run(cursor, (row,))
            after = connection.total_changes()
            new.append(after != count)
            count = after
        return new

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> None:
        self.appended.append((insert(table, tuple(columns)), rows))

    def queue(self, sql: str, params: Sequence[Param], check: Callable[[int], None] | None = None) -> None:
        # A statement takes microseconds here: queueing would only move the error away from its line.
        try:
            if not self._begun:
                self._begin()
            connection, cursor = self._connection, self._cursor
            _statement(sql)
            before = connection.total_changes()
            cursor.execute(sql, params).fetchall()
            changed = connection.changes() if connection.total_changes() != before else 0
        except apsw.Error as error:
            raise translated(error) from error
        if check is not None:
            check(changed)

    def queue_fetch(self, sql: str, params: Sequence[Param], take: Callable[[list[Row]], object]) -> None:
        take(drive(self.fetch(sql, *params)))  # at once, as above

    async def flush(self) -> None: ...

    async def lock_slots(self, slots: Sequence[int]) -> None: ...  # there is one writer

    async def savepoint(self) -> None:
        if not self._begun:
            self._begin()
        self._cursor.execute("SAVEPOINT inner")
        self._marks.append(len(self.appended))

    async def release(self) -> None:
        self._cursor.execute("RELEASE inner")
        self._marks.pop()

    async def rollback(self) -> None:
        if not self._connection.in_transaction:
            raise StoreUnavailable("the engine ended the whole transaction; nothing of it was kept")
        self._cursor.execute("ROLLBACK TO inner")
        self._cursor.execute("RELEASE inner")
        del self.appended[self._marks.pop() :]

    def notify(self, channel: str) -> None:
        self.channels.append(channel)


class _Ended:
    """Stands in for the connection once the transaction is over."""

    def __getattr__(self, name: str) -> Any:
        raise MillstreamError("this transaction has ended: a Tx is valid only until its handler returns")


class _Signal(Wake):
    """A wake-up that leaves its channel when closed."""

    __slots__ = ("_among",)

    def __init__(self, clock: Clock, among: list[_Signal]) -> None:
        super().__init__(clock)
        self._among = among
        among.append(self)

    def close(self) -> None:
        if self in self._among:
            self._among.remove(self)


@lru_cache(maxsize=4096)
def _statement(sql: str) -> None:
    """Refuse what would end or split the transaction that the group shares. Remembered by text: it costs nothing.

    Raises:
        BadStatement: names the statement.
    """
    words = sql.split(None, 1)
    if words and words[0].upper().rstrip(";") in _CONTROL:
        raise BadStatement(
            f"{words[0]} inside a transaction: it begins and ends with the handler; a part that may fail belongs into a "
            "handler of its own"
        )


def translated(error: apsw.Error) -> MillstreamError:
    if isinstance(error, apsw.ConstraintError):
        return Conflict(str(error))
    if isinstance(error, (apsw.SQLError, apsw.MismatchError, apsw.RangeError, apsw.BindingsError, apsw.ReadOnlyError)):
        return BadStatement(str(error))
    return StoreUnavailable(f"{type(error).__name__}: {error}")


def open_store(url: str, *, service: str, data: Path, clock: Clock, instrumentation: Instrumentation) -> SqliteStore:
    """Entry point: `sqlite` puts `<data>/<service>.db`, `sqlite:///path` names a folder of its own."""
    folder = Path(url.removeprefix("sqlite://")) if url.startswith("sqlite://") and len(url) > 9 else data
    return SqliteStore(folder / f"{service}.db", clock=clock, instrumentation=instrumentation)
