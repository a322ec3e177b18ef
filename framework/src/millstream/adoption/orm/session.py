"""One transaction on a connection of the application's engine: the kernel's SQL, and the session that handlers get.

The two see each other's changes: before the kernel reads, or takes its locks, the handler's session is flushed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session as SyncSession

from ...clock import Clock
from ...errors import MillstreamError, Misconfigured
from ...ports.store import Param, Row
from ...postgresql.statements import insert_many, statement
from ..statements import SLOT_LOCKS
from .drivers import Driver, meaning_of

__all__ = ["SqlalchemySession", "Types"]

Check = Callable[[int], None]
Types = dict[str, dict[str, str]]
"""The type of each column by table, as far as anybody has asked."""

_SLOTS = f"SELECT pg_advisory_xact_lock({SLOT_LOCKS}, slot) FROM unnest($1::int[]) AS slot"  # noqa: S608 - ours
_TYPES = """
SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
"""


@final
class SqlalchemySession:
    """SQL inside one transaction, and `lend` for its handlers. Whoever made it commits or rolls back."""

    def __init__(
        self,
        connection: AsyncConnection,
        driver: Driver,
        sessions: async_sessionmaker[Any] | None,
        table_types: Types,
        clock_in_hand: Clock | None,
    ) -> None:
        self._connection = connection
        self._driver = driver
        self._sessions = sessions
        self._types = table_types
        self._clock = clock_in_hand
        self._lent: AsyncSession | None = None
        self._queue: list[tuple[str, Sequence[Param], Check | _Take | None]] = []
        self._appended: dict[tuple[str, tuple[str, ...]], list[Sequence[Param]]] = {}
        self._units: list[_Unit] = []
        self._ended = False
        self.channels: set[str] = set()
        self.doomed: BaseException | None = None
        """The error after which nothing more runs up to the end of the innermost unit."""

    # -- the port -----------------------------------------------------------------------------------------------

    async def execute(self, sql: str, *params: Param) -> int:
        await self.flush()
        return await self._execute(sql, params)

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        await self.flush()
        if rows:
            text, values = self._bound(sql, rows)
            await self._guarded(self._driver.execute_many(text, values))

    async def fetch(self, sql: str, *params: Param) -> list[Row]:
        await self.flush()
        text, (values,) = self._bound(sql, (params,))
        return await self._guarded(self._driver.fetch(text, values))

    async def fetch_one(self, sql: str, *params: Param) -> Row | None:
        rows = await self.fetch(sql, *params)
        return rows[0] if rows else None

    async def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> list[bool]:
        await self.flush()
        if not rows:
            return []
        known = self._types.get(table)
        if known is None:
            found = await self._guarded(self._driver.fetch(_TYPES, (table,)))
            known = self._types[table] = dict(found)
        marks = ", ".join(f"${n}::{known.get(column, 'text')}[]" for n, column in enumerate(columns, 1))
        many = insert_many(table, tuple(columns), f"ON CONFLICT DO NOTHING RETURNING {', '.join(columns)}")
        arrays = [list(column) for column in zip(*rows, strict=True)]
        inserted = set(await self._guarded(self._driver.fetch(many.template.replace("{arrays}", marks), arrays)))
        new: list[bool] = []
        for row in rows:  # of rows that are the same, the first is the one that was inserted
            place = tuple(row)
            new.append(place in inserted)
            inserted.discard(place)
        return new

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> None:
        self._check_open()
        self._appended.setdefault((table, tuple(columns)), []).extend(rows)

    def queue(self, sql: str, params: Sequence[Param], check: Check | None = None) -> None:
        self._check_open()
        statement(sql)  # what may not run here is said here
        self._queue.append((sql, params, check))

    def queue_fetch(self, sql: str, params: Sequence[Param], take: Callable[[list[Row]], object]) -> None:
        self._check_open()
        statement(sql)  # as above
        self._queue.append((sql, params, _Take(take)))

    async def flush(self) -> None:
        """Run what is queued, and write what the handler's session holds."""
        self._check_open()
        if self.doomed is not None:
            raise self.doomed
        queue, self._queue = self._queue, []
        for sql, params, check in queue:
            if isinstance(check, _Take):
                text, (values,) = self._bound(sql, (params,))
                check.take(await self._guarded(self._driver.fetch(text, values)))
                continue
            changed = await self._execute(sql, params)
            if check is not None:
                try:
                    check(changed)
                except BaseException as error:
                    self.doomed = error
                    raise
        if self._lent is not None:
            await self._lent.flush()
            if self._lent.in_nested_transaction():
                await self._lent.connection()  # the handler's savepoint begins with what comes next, at the latest

    async def lock_slots(self, slots: Sequence[int]) -> None:
        await self.flush()  # business rows come before the locks (rules T4, C9)
        if slots:
            await self._guarded(self._driver.fetch(_SLOTS, (list(slots),)))

    async def savepoint(self) -> None:
        await self.flush()  # an error of what stands before the unit must not be taken for the unit's own
        lent = self.lend()
        nested = await lent.begin_nested()  # through the handler's session, which has to know of it
        await lent.connection()  # only this sends it
        self._units.append(_Unit(nested, {place: len(rows) for place, rows in self._appended.items()}))

    async def release(self) -> None:
        await self.flush()
        await self._units.pop().nested.commit()

    async def rollback(self) -> None:
        self._check_open()
        unit = self._units.pop()
        for place, rows in self._appended.items():
            del rows[unit.appended.get(place, 0) :]
        self._queue = []
        self.doomed = None
        try:
            await unit.nested.rollback()
        except BaseException as error:
            self.doomed = meaning_of(error) or error
            raise self.doomed from error

    def notify(self, channel: str) -> None:
        self._check_open()
        self.channels.add(channel)

    # -- for handlers -------------------------------------------------------------------------------------------

    def lend(self) -> AsyncSession:
        self._check_open()
        if self._lent is None:
            options: dict[str, Any] = {"bind": self._connection, "join_transaction_mode": "rollback_only"}
            lent: AsyncSession = self._sessions(**options) if self._sessions else AsyncSession(**options)
            event.listen(lent.sync_session, "before_commit", self._refuse_commit)
            event.listen(lent.sync_session, "after_soft_rollback", self._rolled_back)
            self._lent = lent
        return self._lent

    def _refuse_commit(self, session: SyncSession) -> None:
        if not session.in_nested_transaction():
            raise Misconfigured(
                "tx.session: its transaction is committed when the handler returns; call flush() instead"
            )

    def _rolled_back(self, session: SyncSession, unit: Any) -> None:
        if unit.parent is None and not self._ended and self.doomed is None:
            self.doomed = Misconfigured("tx.session was rolled back by the handler: let it raise instead")

    # -- for whoever drives it ----------------------------------------------------------------------------------

    async def before_commit(self) -> None:
        """Behind the body's end: write what was appended, and whatever is left."""
        await self.flush()
        for (table, columns), rows in self._appended.items():
            if rows:
                marks = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
                sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - identifiers from code
                await self._guarded(self._driver.execute_many(sql, rows))

    async def end(self) -> None:
        """The transaction is over, or about to be: no statement comes any more."""
        self._ended = True
        if self._lent is not None:
            await self._lent.close()

    def failed(self, error: BaseException) -> None:
        """A statement of the handler's session failed, whatever the handler makes of it."""
        if self.doomed is None:
            self.doomed = meaning_of(error) or error

    def recovered(self) -> None:
        """A savepoint was rolled back."""
        self.doomed = None

    # -- inside -------------------------------------------------------------------------------------------------

    async def _execute(self, sql: str, params: Sequence[Param]) -> int:
        text, (values,) = self._bound(sql, (params,))
        return await self._guarded(self._driver.execute(text, values))

    async def _guarded(self, running: Any) -> Any:
        try:
            return await running
        except Exception as error:
            meaning = meaning_of(error)
            if meaning is None:
                raise
            if self.doomed is None:
                self.doomed = meaning
            raise meaning from error

    def _bound(self, sql: str, rows: Sequence[Sequence[Param]]) -> tuple[str, Sequence[Sequence[Param]]]:
        found = statement(sql, self._clock is not None)
        if found.now and self._clock is not None:
            filled: list[Sequence[Param]] = []
            for row in rows:
                given = list(row)
                for place in found.now:
                    given.insert(place, self._clock.now_us())
                filled.append(given)
            rows = filled
        return found.text.decode(), rows

    def _check_open(self) -> None:
        if self._ended:
            raise MillstreamError("this transaction has ended: a Tx is valid only until its handler returns")


class _Take:
    """Who receives the rows of a queued read."""

    __slots__ = ("take",)

    def __init__(self, take: Callable[[list[Row]], object]) -> None:
        self.take = take


class _Unit:
    """An open savepoint. `appended`: how many rows were appended to each table before it."""

    __slots__ = ("appended", "nested")

    def __init__(self, nested: Any, appended: dict[tuple[str, tuple[str, ...]], int]) -> None:
        self.nested = nested
        self.appended = appended
