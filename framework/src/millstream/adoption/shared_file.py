"""The outbox in a SQLite file that belongs to another process, as a store for the relay.

The application writes at any time; this side reads in short transactions of its own and writes only to delete what was
forwarded. It takes no lock file, changes neither the journal mode nor any other setting of the file, and never keeps a
transaction open over a wait. Both sides wait for each other's locks (`busy_timeout`; Python's `sqlite3` waits 5 s by
default). There is no bell between processes: a look at the file's change counter every 20 ms, a few microseconds each.

Left to the application: `synchronous=FULL` (SQLite's default), and either the rollback journal (SQLite's default too) or,
with WAL, a SQLite of 3.51.3 or later on its own side: older ones can corrupt a WAL that two processes use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast, final

import apsw

from ..clock import Clock
from ..delivery.driving import drive
from ..errors import BadStatement, Conflict, MillstreamError, Misconfigured, StoreUnavailable
from ..ports.store import Param, Row, Session, Signal, StoreCapabilities
from ..ports.transport import Durability
from ..ports.wake import Wake
from ..sqlite.file import OLDEST_LIBRARY
from ..sqlite.thread import WorkerThread

__all__ = ["SharedSqliteFile"]

R = TypeVar("R")
BUSY_MS = 5_000
LOOK_SECONDS = 0.02


@final
class SharedSqliteFile:
    """A store on somebody else's file, as far as a relay needs one. Open with `async with`."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._connection: apsw.Connection | None = None
        self._thread: WorkerThread | None = None

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(
            name="sqlite", survives_restart=True, several_processes=True, cheap_savepoints=True, dialect="sqlite"
        )

    async def durability(self) -> Durability:
        """What is known from outside: how safely the application commits is set on its own connections."""
        return Durability(process_crash=True, power_loss=True)

    async def transact(self, work: Callable[[Session], Awaitable[R]]) -> R:
        return await self._run(partial(self._transact, work))

    def _transact(self, work: Callable[[Session], Awaitable[R]], connection: apsw.Connection) -> R:
        connection.execute("BEGIN IMMEDIATE")
        try:
            session = cast(Session, _Session(connection))
            result = drive(cast(Coroutine[Any, Any, R], work(session)))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    async def query(self, sql: str, *params: Param) -> list[Row]:
        return await self._run(lambda connection: connection.execute(sql, params).fetchall())

    async def scan(self, sql: str, *params: Param) -> list[Row]:
        return await self.query(sql, *params)

    async def script(self, sql: str) -> None:
        def run(connection: apsw.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for _ in connection.execute(sql):
                    pass
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

        await self._run(run)

    def listen(self, channel: str) -> Signal:
        return _ChangeCounter(self, self._clock)

    async def changes(self) -> int:
        """A number that changes when somebody else commits."""
        return (await self.query("PRAGMA data_version"))[0][0]

    async def __aenter__(self) -> Self:
        version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
        if version < OLDEST_LIBRARY:
            raise Misconfigured(f"SQLite {apsw.sqlite_lib_version()} can corrupt a WAL; install apsw 3.51.3 or later")
        if not self.path.is_file():
            raise Misconfigured(f"{self.path}: there is no such file; give the application's database")
        self._thread = WorkerThread(f"{self.path.stem}-relay")
        try:
            await self._run(lambda connection: connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall())
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            await self._thread.aclose()
            self._thread = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, job: Callable[[apsw.Connection], R]) -> R:
        if self._thread is None:
            raise StoreUnavailable(f"{self.path}: closed")
        try:
            return await self._thread.run(lambda: job(self._open()))
        except apsw.Error as error:
            raise _translated(error) from error

    def _open(self) -> apsw.Connection:
        """The connection, used in the worker's thread only: it may wait for the application's locks."""
        if self._connection is None:
            connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
            connection.set_busy_timeout(BUSY_MS)
            connection.pragma("synchronous", "FULL")
            connection.pragma("mmap_size", 0)
            connection.create_scalar_function("millstream_now", lambda *_: self._clock.now_us(), 0)
            self._connection = connection
        return self._connection


@final
class _Session:
    """The statements that a relay's transactions have, inside one that is open."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, *params: Param) -> int:
        self._connection.execute(sql, params).fetchall()
        return self._connection.changes()

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        self._connection.executemany(sql, rows).fetchall()

    async def fetch(self, sql: str, *params: Param) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    async def fetch_one(self, sql: str, *params: Param) -> Row | None:
        rows = await self.fetch(sql, *params)
        return rows[0] if rows else None


@final
class _ChangeCounter:
    """Waits until the application has committed something."""

    def __init__(self, file: SharedSqliteFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._wake = Wake(clock)
        self._seen = -1

    async def wait(self, timeout: float) -> bool:
        until = self._clock.monotonic() + timeout
        while True:
            changes = await self._file.changes()
            if changes != self._seen:
                # What was committed before this look, the caller may have read before: then it reads once more.
                self._seen = changes
                return True
            left = until - self._clock.monotonic()
            if await self._wake.wait(min(LOOK_SECONDS, max(left, 0.0))):
                return True
            if left <= 0:
                return False

    def set(self) -> None:
        self._wake.set()

    def close(self) -> None: ...


def _translated(error: apsw.Error) -> MillstreamError:
    if isinstance(error, apsw.ConstraintError):
        return Conflict(str(error))
    if isinstance(error, apsw.NotADBError):
        return Misconfigured(f"the file is no SQLite database: {error}")
    if isinstance(error, (apsw.SQLError, apsw.MismatchError, apsw.BindingsError, apsw.ReadOnlyError)):
        return BadStatement(str(error))
    return StoreUnavailable(f"{type(error).__name__}: {error}")
