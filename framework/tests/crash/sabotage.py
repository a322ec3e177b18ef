"""Broken collaborators: each takes one safeguard out of a life, by standing in for a store or a log.

The product has no switch for any of this. That a system with one of them is caught shows that the invariants look at
what the safeguard is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from life import Sabotage
from millstream import delivery
from millstream.delivery.driving import drive
from millstream.message import Record
from millstream.ports.store import Row, Session, Store
from millstream.ports.transport import Transport
from millstream.testing.failpoints import Failpoints

__all__ = [
    "EarlyConfirmation",
    "NoEpochCheck",
    "NoInbox",
    "NoLaneCheck",
    "NoStartMarker",
    "NoSuspicion",
    "OutboxApart",
    "PositionApart",
    "Rewritten",
    "SessionThrough",
    "StoreThrough",
    "UncommittedRows",
]

R = TypeVar("R")
Work = Callable[[Any], Awaitable[Any]]
"""What a transaction runs; its session may be one of the stand-ins below."""
ADVANCE = "UPDATE millstream_claims\nSET position = ?"
BETWEEN = "between two transactions"
_KERNEL = [file.read_text() for file in Path(delivery.__file__).parent.glob("*.py")]


class SessionThrough:
    """A session that passes everything on."""

    def __init__(self, inner: Session) -> None:
        self.inner: Any = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class StoreThrough:
    """A store that passes everything on; `session` may put another session in."""

    def __init__(self, inner: Store) -> None:
        self.inner: Any = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def session(self, session: Session) -> Any:
        return session

    async def transact(self, work: Work) -> Any:
        return await self.inner.transact(lambda session: work(self.session(session)))

    async def __aenter__(self) -> Any:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.inner.__aexit__(*error)


class _OneStore(Sabotage):
    """Replaces the till's store, where consumption is."""

    kind: type[Any] = StoreThrough
    of = ("till",)

    def store(self, store: Store, points: Failpoints, name: str) -> Store:
        if name not in self.of:
            return store
        made: Any = self.kind(store)
        made.points = points
        return made


# -- the inbox ----------------------------------------------------------------------------------------------------


class NoInbox(_OneStore):
    """Every message is new."""

    class kind(StoreThrough):  # noqa: N801 - the class that is the value of `kind`
        def session(self, session: Session) -> Any:
            return _AllNew(session)


class _AllNew(SessionThrough):
    async def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Any]) -> list[bool]:
        await self.inner.insert_new(table, columns, rows)
        return [True] * len(rows)


# -- position, and rows, in transactions of their own ---------------------------------------------------------------


class PositionApart(_OneStore):
    """The position is committed before the work that it stands for."""

    class kind(StoreThrough):  # noqa: N801
        points: Failpoints

        async def transact(self, work: Work) -> Any:
            advance: list[tuple[str, tuple[Any, ...]]] = []
            try:
                return await self.inner.transact(lambda session: work(_Without(session, advance)))
            except _Learned:
                pass

            async def only_position(session: Session) -> None:
                for sql, params in advance:
                    await session.execute(sql, *params)

            await self.inner.transact(only_position)
            self.points.hit(BETWEEN)
            return await self.inner.transact(lambda session: work(_Without(session, advance)))


class _Learned(BaseException):
    """The first run was only to see where the position goes; nothing of it is kept."""


class _Without(SessionThrough):
    def __init__(self, inner: Session, advance: list[tuple[str, tuple[Any, ...]]]) -> None:
        super().__init__(inner)
        self._advance = advance

    def queue(self, sql: str, params: Any, check: Any = None) -> None:
        if not sql.strip().startswith(ADVANCE):
            self.inner.queue(sql, params, check)
        elif not self._advance:
            self._advance.append((sql, params))
            raise _Learned


class OutboxApart(_OneStore):
    """Events are written after the commit of what they tell of: publish after commit, as shipped elsewhere."""

    of = ("bank",)

    class kind(StoreThrough):  # noqa: N801
        points: Failpoints

        async def transact(self, work: Work) -> Any:
            later: list[Any] = []
            result = await self.inner.transact(lambda session: work(_OutboxLater(session, later)))
            if later:
                self.points.hit(BETWEEN)

                async def write(session: Session) -> None:
                    for call in later:
                        session.append(*call)
                    session.notify("millstream_outbox")

                await self.inner.transact(write)
            return result


class _OutboxLater(SessionThrough):
    def __init__(self, inner: Session, later: list[Any]) -> None:
        super().__init__(inner)
        self._later = later

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
        self._later.append((table, columns, rows))


# -- the relay ------------------------------------------------------------------------------------------------------


class UncommittedRows(_OneStore):
    """The relay sees outbox rows as soon as they are written, also those that are taken back."""

    of = ("bank",)

    class kind(StoreThrough):  # noqa: N801
        def __init__(self, inner: Store) -> None:
            super().__init__(inner)
            self.dirty: dict[int, Row] = {}

        def session(self, session: Session) -> Any:
            return _Showing(session, self.dirty)

        async def query(self, sql: str, *params: Any) -> list[Row]:
            rows = await self.inner.query(sql, *params)
            if "FROM millstream_outbox o" not in sql:
                return rows
            dirty, committed = dict(self.dirty), {row[0] for row in rows}
            self.dirty.clear()
            return sorted([*rows, *(row for id_, row in dirty.items() if id_ not in committed)])


class _Showing(SessionThrough):
    def __init__(self, inner: Session, dirty: dict[int, Row]) -> None:
        super().__init__(inner)
        self._dirty = dirty

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
        marks = ", ".join("?" * len(columns))
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        drive(
            self.inner.execute_many(sql, rows)
        )  # at once, so that they are there before it is known whether they stay
        for row in drive(self.inner.fetch("SELECT id, topic, key, value, NULL FROM millstream_outbox")):
            self._dirty[row[0]] = row


class EarlyConfirmation(Sabotage):
    """The log confirms what it has only in memory, so that rows are deleted before they are safe."""

    def transport(self, transport: Transport, points: Failpoints) -> Transport:
        made: Any = _Early(transport)
        return made


class _Early:
    def __init__(self, inner: Transport) -> None:
        self.inner: Any = inner
        self._order = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        async def later() -> None:
            async with self._order:
                await asyncio.sleep(0.02)  # what stands in memory of a log that promises too much
                await self.inner.publish(topic, partition, records)

        task = asyncio.get_running_loop().create_task(later())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return len(records)

    async def __aenter__(self) -> Any:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.inner.__aexit__(*error)


# -- statements with a part taken out --------------------------------------------------------------------------------


class Rewritten(SessionThrough):
    """Replaces a part of each statement that has it. A replacement must take as many parameters."""

    def __init__(self, inner: Session, parts: dict[str, str]) -> None:
        super().__init__(inner)
        self._parts = parts

    def _sql(self, sql: str) -> str:
        for part, other in self._parts.items():
            sql = sql.replace(part, other)
        return sql

    async def execute(self, sql: str, *params: Any) -> int:
        return await self.inner.execute(self._sql(sql), *params)

    async def fetch_one(self, sql: str, *params: Any) -> Row | None:
        return await self.inner.fetch_one(self._sql(sql), *params)

    def queue(self, sql: str, params: Any, check: Any = None) -> None:
        self.inner.queue(self._sql(sql), params, check)

    def queue_fetch(self, sql: str, params: Any, take: Any) -> None:
        self.inner.queue_fetch(self._sql(sql), params, take)


def _rewriting(parts: dict[str, str]) -> type[StoreThrough]:
    # A statement that was worded anew would leave its safeguard in place, and the test would blame the invariants.
    gone = [part for part in parts if not any(part in text for text in _KERNEL)]
    assert not gone, f"no statement of the kernel contains {gone}"

    class Rewriting(StoreThrough):
        def session(self, session: Session) -> Any:
            return Rewritten(session, parts)

    return Rewriting


class NoLaneCheck(_OneStore):
    """A batch does not see that a lane has messages parked: what comes behind them overtakes."""

    kind = _rewriting({"SELECT 1 FROM millstream_lanes WHERE": "SELECT 1 FROM millstream_lanes WHERE FALSE AND"})


class NoEpochCheck(_OneStore):
    """A holder that was replaced goes on writing."""

    kind = _rewriting({
        "AND epoch = ? AND position = ?": "AND epoch >= 0 * ? AND position >= 0 * ?",
        "AND epoch = ? RETURNING fence": "AND epoch >= 0 * ? RETURNING fence",
    })  # fmt: skip


class NoStartMarker(_OneStore):
    """Starts of parked messages are not counted: one that kills its process is never known by it."""

    kind = _rewriting({
        "UPDATE millstream_parked SET starts = ? WHERE": "UPDATE millstream_parked SET starts = 0 * ? WHERE",
        "AND starts = ?": "AND starts >= 0 * ?",
    })  # fmt: skip


class NoSuspicion(_OneStore):
    """A claim that was not released is taken as if it had been: what killed its holder runs in a batch again."""

    kind = _rewriting({"THEN suspect ELSE ? END\n": "THEN suspect ELSE 0 * ? END\n"})
