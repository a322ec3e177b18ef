"""Named places at which a process dies: a store and a log around the real ones that count what passes through them.

The product knows nothing of them; a test hands them in where a system is composed. A point is named by what has just
happened, so the names follow from the statements that really ran:

| point | the process dies |
|---|---|
| `shop: before BEGIN` | before anything of a transaction happened |
| `shop: insert inbox` | inside a transaction, behind the first `INSERT INTO millstream_inbox` of it |
| `shop: update claims (position, expires, suspect)` | behind the statement that sets just these columns |
| `shop: before COMMIT of insert orders` | at the end of the transaction whose first change was that |
| `shop: after COMMIT of insert orders` | durable, and nobody in the process has learned it |
| `log: before publish`, `log: after publish` | around the confirmation of the log |

Other code names points of its own with `Failpoints.hit`. Dying is SIGKILL: no `finally` runs, nothing is flushed.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar, final

from ..message import Record
from ..ports.store import Param, Row, Session, Signal, Store, StoreCapabilities
from ..ports.transport import Bounds, Durability, Reader, Transport, TransportCapabilities

__all__ = ["FailpointStore", "FailpointTransport", "Failpoints", "statement_name"]

R = TypeVar("R")

_STATEMENT = re.compile(r"\s*(INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+(\w+)", re.IGNORECASE)
_SET = re.compile(r"\bSET\b(.*?)(?:\bWHERE\b|\Z)", re.IGNORECASE | re.DOTALL)
_COLUMN = re.compile(r"(\w+)\s*=")
_names: dict[str, str] = {}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@final
class Failpoints:
    """Counts the hits of every point, and ends the process at one of them.

    announce: told the point's name just before the end, so that whoever waits for the process knows where it was.
    """

    def __init__(self, announce: Callable[[str], object] = lambda _: None, die: Callable[[], object] = _die) -> None:
        self.counts: Counter[str] = Counter()
        self._announce = announce
        self._die = die
        self._armed: tuple[str, int] | None = None

    def arm(self, point: str, hit: int = 1) -> None:
        """Die when `point` is passed for the `hit`-th time, counted from the start of the process."""
        self._armed = (point, hit)

    def hit(self, point: str) -> None:
        """The process is at `point`."""
        self.counts[point] += 1
        if self._armed == (point, self.counts[point]):
            self._announce(point)
            self._die()


def statement_name(sql: str) -> str:
    """`insert inbox` or `update lanes (state, due)`; empty for a statement that changes nothing."""
    name = _names.get(sql)
    if name is None:
        found = _STATEMENT.match(sql)
        name = ""
        if found is not None:
            verb, table = found[1].split()[0].lower(), found[2].removeprefix("millstream_")
            name = f"{verb} {table}"
            changes = _SET.search(sql) if verb == "update" else None
            if changes is not None:
                name += f" ({', '.join(_COLUMN.findall(changes[1]))})"
        _names[sql] = name
    return name


class FailpointStore:
    """A `Store` whose transactions pass points. `name`: what the points begin with."""

    def __init__(self, store: Store, points: Failpoints, name: str) -> None:
        self._store = store
        self._points = points
        self._name = name

    @property
    def capabilities(self) -> StoreCapabilities:
        return self._store.capabilities

    async def durability(self) -> Durability:
        return await self._store.durability()

    async def transact(self, work: Callable[[Session], Awaitable[R]]) -> R:
        points, name = self._points, self._name
        session: _FailpointSession | None = None

        async def watched(inner: Session) -> R:
            nonlocal session
            session = _FailpointSession(inner, points, name)
            result = await work(session)
            if session.first:
                points.hit(f"{name}: before COMMIT of {session.first}")
            return result

        points.hit(f"{name}: before BEGIN")
        result = await self._store.transact(watched)
        if session is not None and session.first:
            points.hit(f"{name}: after COMMIT of {session.first}")
        return result

    async def query(self, sql: str, *params: Param) -> list[Row]:
        return await self._store.query(sql, *params)

    async def scan(self, sql: str, *params: Param) -> list[Row]:
        return await self._store.scan(sql, *params)

    async def script(self, sql: str) -> None:
        self._points.hit(f"{self._name}: before script")
        await self._store.script(sql)
        self._points.hit(f"{self._name}: after script")

    def listen(self, channel: str) -> Signal:
        return self._store.listen(channel)

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store.__aexit__(kind, error, trace)


class _FailpointSession:
    """A session whose changes pass points. `first`: the name of the first change."""

    def __init__(self, session: Session, points: Failpoints, name: str) -> None:
        self._session = session
        self._points = points
        self._name = name
        self._seen: set[str] = set()
        self.first = ""

    def _changed(self, name: str) -> None:
        # Once a transaction: a hundred inserts of one batch are one place to die in, not a hundred.
        if name and name not in self._seen:
            self._seen.add(name)
            self.first = self.first or name
            self._points.hit(f"{self._name}: {name}")

    async def execute(self, sql: str, *params: Param) -> int:
        changed = await self._session.execute(sql, *params)
        self._changed(statement_name(sql))
        return changed

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        await self._session.execute_many(sql, rows)
        self._changed(statement_name(sql) if rows else "")

    async def fetch(self, sql: str, *params: Param) -> list[Row]:
        rows = await self._session.fetch(sql, *params)
        self._changed(statement_name(sql))
        return rows

    async def fetch_one(self, sql: str, *params: Param) -> Row | None:
        row = await self._session.fetch_one(sql, *params)
        self._changed(statement_name(sql))
        return row

    async def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> list[bool]:
        new = await self._session.insert_new(table, columns, rows)
        self._changed(f"insert {table.removeprefix('millstream_')}" if rows else "")
        return new

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> None:
        self._session.append(table, columns, rows)
        self._changed(f"insert {table.removeprefix('millstream_')}" if rows else "")

    def queue(self, sql: str, params: Sequence[Param], check: Callable[[int], None] | None = None) -> None:
        self._session.queue(sql, params, check)
        self._changed(statement_name(sql))

    def queue_fetch(self, sql: str, params: Sequence[Param], take: Callable[[list[Row]], object]) -> None:
        self._session.queue_fetch(sql, params, take)

    async def flush(self) -> None:
        await self._session.flush()

    async def lock_slots(self, slots: Sequence[int]) -> None:
        await self._session.lock_slots(slots)

    async def savepoint(self) -> None:
        await self._session.savepoint()

    async def release(self) -> None:
        await self._session.release()

    async def rollback(self) -> None:
        await self._session.rollback()
        self._points.hit(f"{self._name}: after ROLLBACK TO")

    def notify(self, channel: str) -> None:
        self._session.notify(channel)


class FailpointTransport:
    """A `Transport` whose publishing, reading and marking pass points. `name`: what the points begin with."""

    def __init__(self, transport: Transport, points: Failpoints, name: str = "log") -> None:
        self._transport = transport
        self._points = points
        self._name = name

    @property
    def capabilities(self) -> TransportCapabilities:
        return self._transport.capabilities

    async def durability(self) -> Durability:
        return await self._transport.durability()

    async def provision(self, topic: str, partitions: int) -> None:
        await self._transport.provision(topic, partitions)
        self._points.hit(f"{self._name}: after provision")

    async def partitions(self, topic: str) -> int | None:
        return await self._transport.partitions(topic)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        return await self._transport.bounds(topic, partition)

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        self._points.hit(f"{self._name}: before publish")
        durable = await self._transport.publish(topic, partition, records)
        self._points.hit(f"{self._name}: after publish")
        return durable

    def read(self, topic: str, partition: int, after: int) -> Reader:
        return _FailpointReader(self._transport.read(topic, partition, after), self._points, self._name)

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        await self._transport.mark(subscription, topic, partition, position)
        self._points.hit(f"{self._name}: after mark")

    async def unmark(self, subscription: str, topic: str) -> None:
        await self._transport.unmark(subscription, topic)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)


class _FailpointReader:
    def __init__(self, reader: Reader, points: Failpoints, name: str) -> None:
        self._reader = reader
        self._points = points
        self._name = name

    async def next(self, limit: int) -> Sequence[Record]:
        records = await self._reader.next(limit)
        self._points.hit(f"{self._name}: after read")
        return records

    async def aclose(self) -> None:
        await self._reader.aclose()
