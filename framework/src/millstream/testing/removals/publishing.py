"""Committing and publishing without one of their rules."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from ...delivery.driving import drive
from ...errors import RecordRefused, TransportUnavailable
from ...message import Record
from ...ports.store import Row, Session, Store
from ...ports.transport import Transport
from .removal import Removal
from .through import OneStore, SessionThrough, StoreThrough, TransportThrough, Work

__all__ = [
    "AnswerBeforeCommit",
    "EarlyConfirmation",
    "GoesOnBehindAGap",
    "NoStoredReply",
    "OutboxApart",
    "RefusedIsDropped",
    "TimerApart",
    "UncommittedRows",
    "Unsynced",
    "WholeBatchConfirmed",
]


class OutboxApart(OneStore):
    """Events are written after the commit of what they tell of: publish after commit, as shipped elsewhere."""

    of = ("bank", "till")

    class kind(StoreThrough):  # noqa: N801 - the class that is the value of `kind`
        async def transact(self, work: Work) -> Any:
            later: list[Any] = []
            result = await self.through(partial(_OutboxLater, later=later), work)
            if later:
                self.between()

                async def write(session: Session) -> None:
                    for call in later:
                        session.append(*call)
                    session.notify("millstream_outbox")

                await self.inner.transact(write)
            return result


class _OutboxLater(SessionThrough):
    def __init__(self, inner: Any, later: list[Any]) -> None:
        super().__init__(inner)
        self._later = later

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
        self._later.append((table, columns, rows))


class UncommittedRows(OneStore):
    """The relay sees outbox rows as soon as they are written, also those that are taken back."""

    of = ("bank", "till")

    class kind(StoreThrough):  # noqa: N801 - as above
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
    def __init__(self, inner: Any, dirty: dict[int, Row]) -> None:
        super().__init__(inner)
        self._dirty = dirty

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
        marks = ", ".join("?" * len(columns))
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - identifiers from code
        drive(self.inner.execute_many(sql, rows))  # at once, before it is known whether they stay
        for row in drive(self.inner.fetch("SELECT id, topic, key, value, NULL FROM millstream_outbox")):
            self._dirty[row[0]] = row


class AnswerBeforeCommit(OneStore):
    """Whoever waits for a transaction is answered as soon as its work has run."""

    of = ("bank",)

    class kind(StoreThrough):  # noqa: N801 - as above
        async def transact(self, work: Work) -> Any:
            ran: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

            async def early(session: Session) -> Any:
                result = await work(session)
                if not ran.done():
                    ran.set_result(result)
                return result

            committing = asyncio.get_running_loop().create_task(self.inner.transact(early))
            await asyncio.wait((ran, committing), return_when=asyncio.FIRST_COMPLETED)
            if ran.done():
                committing.add_done_callback(lambda task: task.cancelled() or task.exception())
                return ran.result()
            return committing.result()


class NoStoredReply(OneStore):
    """The reply to a request is not kept: one that comes again is done again."""

    of = ("bank",)

    class kind(StoreThrough):  # noqa: N801 - as above
        def session(self, session: Session) -> Any:
            return _Forgetting(session)


class _Forgetting(SessionThrough):
    async def fetch_one(self, sql: str, *params: Any) -> Row | None:
        return None if "FROM millstream_idempotency" in sql else await self.inner.fetch_one(sql, *params)

    async def fetch(self, sql: str, *params: Any) -> list[Row]:
        return [] if "FROM millstream_idempotency" in sql else await self.inner.fetch(sql, *params)

    async def execute(self, sql: str, *params: Any) -> int:
        return 1 if "millstream_idempotency" in sql else await self.inner.execute(sql, *params)


class TimerApart(OneStore):
    """A due timer goes in a transaction of its own, before the one that writes its message to the outbox."""

    of = ("bank",)

    class kind(StoreThrough):  # noqa: N801 - as above
        async def transact(self, work: Work) -> Any:
            taken: list[list[Row]] = []
            try:
                return await self.through(partial(_TakingFirst, taken=taken), work)
            except _Due as due:
                sql, params = due.sql, due.params

            async def take(session: Session) -> list[Row]:
                return await session.fetch(sql, *params)

            taken.append(await self.inner.transact(take))
            return await self.through(partial(_TakingFirst, taken=taken), work)


class _Due(BaseException):
    def __init__(self, sql: str, params: tuple[Any, ...]) -> None:
        super().__init__()
        self.sql = sql
        self.params = params


class _TakingFirst(SessionThrough):
    def __init__(self, inner: Any, taken: list[list[Row]]) -> None:
        super().__init__(inner)
        self._taken = taken

    async def fetch(self, sql: str, *params: Any) -> list[Row]:
        if not sql.startswith("DELETE FROM millstream_timers"):
            return await self.inner.fetch(sql, *params)
        if not self._taken:
            raise _Due(sql, params)
        return self._taken[-1]


class _Log(Removal):
    kind: type[Any] = TransportThrough

    def transport(self, transport: Transport) -> Transport:
        return self.kind(transport)


class EarlyConfirmation(_Log):
    """The log confirms what it has only in memory, so that rows are deleted before they are safe.

    seconds: how long it keeps a record there; a log behind a network takes its time anyhow.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def transport(self, transport: Transport) -> Transport:
        made: Any = self.kind(transport)
        made.seconds = self._seconds
        return made

    class kind(TransportThrough):  # noqa: N801 - as above
        seconds = 0.0

        def __init__(self, inner: Transport) -> None:
            super().__init__(inner)
            self._order = asyncio.Lock()
            self._tasks: set[asyncio.Task[None]] = set()

        async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
            async def later() -> None:
                async with self._order:
                    if self.seconds:
                        await asyncio.sleep(self.seconds)
                    await self.inner.publish(topic, partition, records)

            task = asyncio.get_running_loop().create_task(later())
            self._tasks.add(task)  # the loop does not keep it
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            return len(records)


class WholeBatchConfirmed(_Log):
    """A publish that took a part counts as one that took all."""

    class kind(TransportThrough):  # noqa: N801 - as above
        async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
            await self.inner.publish(topic, partition, records)
            return len(records)


class GoesOnBehindAGap(_Log):
    """Pipelined publishing that does not stop at a record which was not taken: the later ones are in the log before it."""

    class kind(TransportThrough):  # noqa: N801 - as above
        async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
            for index, record in enumerate(records):
                try:
                    taken = await self.inner.publish(topic, partition, [record])
                except TransportUnavailable:
                    taken = 0
                if not taken:
                    await self.inner.publish(topic, partition, records[index + 1 :])
                    return index
            return len(records)


class RefusedIsDropped(_Log):
    """A record that the log refuses is forgotten, and the rest goes on."""

    class kind(TransportThrough):  # noqa: N801 - as above
        async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
            left = list(records)
            while left:
                try:
                    done = await self.inner.publish(topic, partition, left)
                except RecordRefused as refused:
                    del left[: refused.index + 1]
                else:
                    return len(records) - len(left) + done
            return len(records)


class Unsynced(Removal):
    """Commits are not synced to the disk."""

    synchronous = "OFF"
