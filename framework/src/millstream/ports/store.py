"""The store port: a database that one service owns, and a unit of work on it.

SQL is one portable subset (`?` parameters, `INSERT … ON CONFLICT`, `RETURNING`, integers for money and for time in
microseconds) that SQLite and PostgreSQL both run; each adapter translates what differs. Two functions exist in every
store: `millstream_now()` is the store's own clock in microseconds, the only one that decides about expiry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import msgspec

from .transport import Durability

__all__ = [
    "Attributing",
    "Expected",
    "Lending",
    "Param",
    "Presence",
    "Row",
    "Session",
    "Signal",
    "Store",
    "StoreCapabilities",
]

R = TypeVar("R")
Row = tuple[Any, ...]
Param = str | int | float | bytes | None
"""What a statement's parameter may be."""


class StoreCapabilities(msgspec.Struct, frozen=True):
    """What an adapter declares about its engine."""

    name: str
    survives_restart: bool
    several_processes: bool
    """Several processes may open the same store; otherwise a second one is refused."""
    cheap_savepoints: bool
    """A savepoint per message costs microseconds; otherwise a failing message is taken out and the rest runs again."""
    dialect: str
    """`sqlite` or `postgresql`: which variant of a migration runs."""


class Expected:
    """A queued write's `check` that wants `rows` changed rows. A store may let its engine check that.

    otherwise: the error, by the number of rows that were changed.
    """

    __slots__ = ("_otherwise", "rows")

    def __init__(self, rows: int, otherwise: Callable[[int], Exception | type[Exception]]) -> None:
        self.rows = rows
        self._otherwise = otherwise

    def __call__(self, changed: int) -> None:
        if changed != self.rows:
            raise self._otherwise(changed)


class Session(Protocol):
    """SQL inside one transaction. Valid only until the work that received it returns."""

    async def execute(self, sql: str, *params: Param) -> int:
        """Run a statement; return how many rows it changed."""
        ...

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        """Run one statement for each row of parameters, in order, in as few round trips as the engine allows."""
        ...

    async def fetch(self, sql: str, *params: Param) -> list[Row]:
        """All rows of a query, or of a statement with RETURNING."""
        ...

    async def fetch_one(self, sql: str, *params: Param) -> Row | None:
        """The first row, or None."""
        ...

    async def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> list[bool]:
        """Insert rows that no unique constraint knows yet; say for each whether it was new.

        `table` and `columns` are identifiers from code, never from input.
        """
        ...

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> None:
        """Insert rows, in this order, before the commit, behind whatever else this transaction does: nothing of it sees
        them. Nothing may refuse one: no unique constraint, no check. Where transactions share a commit, theirs are written
        together, in the order of the transactions.

        `table` and `columns` are identifiers from code, never from input.
        """
        ...

    def queue(self, sql: str, params: Sequence[Param], check: Callable[[int], None] | None = None) -> None:
        """A write whose result nobody reads now (rule T5). It runs before the next read of this session or before the
        commit, in the order of the calls; `check` receives the number of changed rows and may raise."""
        ...

    def queue_fetch(self, sql: str, params: Sequence[Param], take: Callable[[list[Row]], object]) -> None:
        """A read whose rows are wanted a little later: it runs like a queued write does, then `take` receives them."""
        ...

    async def flush(self) -> None:
        """Run what is queued."""
        ...

    async def lock_slots(self, slots: Sequence[int]) -> None:
        """Hold the publish slots, given ascending, until the transaction ends (rule T4). No work where the store has
        one writer."""
        ...

    async def savepoint(self) -> None:
        """Begin a nested unit; ended by exactly one `release` or `rollback`."""
        ...

    async def release(self) -> None:
        """Keep what the innermost unit did."""
        ...

    async def rollback(self) -> None:
        """Undo what the innermost unit did, its queued statements included."""
        ...

    def notify(self, channel: str) -> None:
        """Wake who waits on this channel, once this transaction has committed. Coalesced; no payload."""
        ...


class Attributing(Protocol):
    """An optional power of sessions that queue: to say whose queued write it was that failed. Who has it has `attribute`.

    Several units of work share a transaction, and a write of one may be found out to fail while another one runs.
    """

    @property
    def blamed(self) -> tuple[int, BaseException] | None:
        """To whom what failed was attributed, and its error, which dooms the transaction or the innermost unit."""
        ...

    def attribute(self, to: int) -> None:
        """From here on, what is run and queued belongs to `to`."""
        ...


@runtime_checkable
class Lending(Protocol):
    """An optional power of sessions: to lend what the application's own database library has for a transaction."""

    def lend(self) -> Any:
        """The library's session, in this transaction. It is part of it: its changes are written before the commit."""
        ...


class Signal(Protocol):
    """A place to wait for notifications of one channel. Nothing is missed between two waits."""

    async def wait(self, timeout: float) -> bool:
        """Return True at once when notified since the last wait, else wait for it; False after `timeout` seconds."""
        ...

    def set(self) -> None:
        """Wake this waiter alone, from inside this process."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Presence(Protocol):
    """An optional power of stores: to tell a process that ended from one that is slow, long before a lease does."""

    async def present(self, worker: str) -> None:
        """Show others that this worker is there, for as long as this process is connected."""
        ...

    async def gone(self, workers: Sequence[str]) -> list[str]:
        """Which of these workers are not shown to be there. One whose connection broke a moment ago may be among them."""
        ...


class Store(Protocol):
    """One service's database."""

    @property
    def capabilities(self) -> StoreCapabilities: ...

    async def durability(self) -> Durability:
        """Read the engine's settings back and say what a commit survives."""
        ...

    async def transact(self, work: Callable[[Session], Awaitable[R]]) -> R:
        """Run `work` in a transaction and return its result once the commit is durable.

        An exception from `work` undoes all it did and is raised here. `work` may run again when the engine asks for it
        (serialisation failure, deadlock). Cancelled before `work` started: it never runs; later: it still commits, and
        the caller does not learn the outcome.

        Raises:
            StoreUnavailable: the database is away or ended the transaction; whether it committed may be unknown.
            ForeignWait: `work` waited for something else than this session (rule T3).
        """
        ...

    async def query(self, sql: str, *params: Param) -> list[Row]:
        """A short read of committed, durable rows, outside of any transaction."""
        ...

    async def scan(self, sql: str, *params: Param) -> list[Row]:
        """A read that may take long: it delays nobody else."""
        ...

    async def script(self, sql: str) -> None:
        """Run several statements separated by semicolons in one transaction: migrations."""
        ...

    def listen(self, channel: str) -> Signal:
        """Where to wait for `Session.notify` of this channel."""
        ...

    async def __aenter__(self) -> Self:
        """Open; refuses with `Misconfigured` when another process holds a store that only one may use."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
