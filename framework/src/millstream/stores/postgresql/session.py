"""SQL inside one transaction: what may travel together does (rule T5).

A statement whose result somebody reads costs a round trip and takes along everything queued before it. The first one
takes BEGIN along, and what is queued at the end travels with COMMIT.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Sequence
from typing import Any, final

from psycopg import pq

from ...clock import Clock
from ...errors import MillstreamError, StoreUnavailable
from ...ports.store import Expected, Param, Row
from ...postgresql.connection import NO_PARAMETERS, Bound, Connection, Exchange
from ...postgresql.errors import Again, translated
from ...postgresql.pool import BEGIN
from ...postgresql.statements import ManyRows, for_many_rows, insert_many, statement
from ...postgresql.values import array, encoded
from .counting import Counting, found_changed

__all__ = ["WAIT", "PostgresqlSession", "Types"]

SLOTS = 0x6D73  # "ms": the first half of the locks' numbers
WAIT: object = object()
"""What a session's waits yield to whoever drives the transaction."""

Check = Callable[[int], None]
Take = Callable[[list[Row]], object]
Types = dict[str, dict[str, str]]
"""The type of each column by table, as far as anybody has asked."""

_SLOT = b"SELECT pg_advisory_xact_lock(%d, $1)" % SLOTS
# A statement of its own: the next one's snapshot is taken once the locks are held. unnest keeps the ascending order.
_SLOT_LIST = b"SELECT pg_advisory_xact_lock(%d, slot) FROM unnest($1::int[]) AS slot" % SLOTS
_TYPES = b"""
SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
"""


@types.coroutine
def _answer() -> Generator[object, None, None]:
    yield WAIT


@final
class PostgresqlSession:
    """One transaction's statements. Whoever drives the body sends `outgoing` at each wait and gives back `reply`."""

    __slots__ = (
        "_appended",
        "_attributed",
        "_checks",
        "_clock",
        "_connection",
        "_counted",
        "_counting",
        "_ended",
        "_queue",
        "_takes",
        "_types",
        "_units",
        "_whose",
        "begun",
        "blamed",
        "channels",
        "doomed",
        "outgoing",
        "reply",
    )

    def __init__(
        self, connection: Connection, table_types: Types, counting: Counting, clock_in_hand: Clock | None
    ) -> None:
        self._connection = connection
        self._types = table_types
        self._counting = counting
        self._clock = clock_in_hand
        self._queue: list[Bound] = []
        self._checks: dict[int, Check] = {}
        self._takes: dict[int, Take] = {}
        self._counted: dict[int, tuple[bytes, Expected]] = {}
        """What is sent with COMMIT and fails by itself: its own text, and what it expects."""
        self._appended: dict[tuple[str, tuple[str, ...]], list[Sequence[Param]]] = {}
        self._units: list[_Unit] = []
        self._ended = False
        self._whose: int | None = None
        self._attributed: list[int | None] = []
        """For each queued statement."""
        self.blamed: tuple[int, BaseException] | None = None
        self.channels: set[str] | None = None
        self.begun = False
        """BEGIN was sent."""
        self.doomed: BaseException | None = None
        """The error after which nothing more runs up to the end of the innermost unit."""
        self.outgoing: list[Bound] = []
        self.reply: Exchange | None = None

    # -- the port -----------------------------------------------------------------------------------------------

    async def execute(self, sql: str, *params: Param) -> int:
        return _changed((await self._run(self._bound(sql, params)))[-1])

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        if not rows:
            return
        many = for_many_rows(sql) if len(rows) > 1 else None
        if many is not None and (arrays := await self._arrays(many, rows)) is not None:
            self._add(arrays)
            return
        for row in rows:
            self._add(self._bound(sql, row))

    async def fetch(self, sql: str, *params: Param) -> list[Row]:
        return self._connection.rows((await self._run(self._bound(sql, params)))[-1])

    async def fetch_one(self, sql: str, *params: Param) -> Row | None:
        rows = self._connection.rows((await self._run(self._bound(sql, params)))[-1])
        return rows[0] if rows else None

    async def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Param]]) -> list[bool]:
        if not rows:
            return []
        tail = f"ON CONFLICT DO NOTHING RETURNING {', '.join(columns)}"
        bound = await self._arrays(insert_many(table, tuple(columns), tail), rows)
        if bound is None:
            return [await self._insert_one(table, columns, row) for row in rows]
        result = (await self._run(bound))[-1]
        if result.ntuples == len(rows):
            return [True] * len(rows)
        inserted = set(self._connection.rows(result))
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
        self._add(self._bound(sql, params))
        if check is not None:
            self._checks[len(self._queue) - 1] = check

    def queue_fetch(self, sql: str, params: Sequence[Param], take: Take) -> None:
        self._add(self._bound(sql, params))
        self._takes[len(self._queue) - 1] = take

    async def flush(self) -> None:
        if self._queue:
            await self._run(None)

    async def lock_slots(self, slots: Sequence[int]) -> None:
        if len(slots) == 1:
            self._add((_SLOT, encoded(slots)))
        elif slots:
            value, format_ = array(slots, False)
            self._add((_SLOT_LIST, ([value], [format_])))

    async def savepoint(self) -> None:
        await self.flush()  # an error of what stands before the unit must not be taken for the unit's own
        unit = _Unit(len(self._units), {place: len(rows) for place, rows in self._appended.items()})
        self._add(unit.control("SAVEPOINT"))
        self._units.append(unit)

    async def release(self) -> None:
        await self.flush()
        self._add(self._units.pop().control("RELEASE"))

    async def rollback(self) -> None:
        self._check_open()
        if self._connection.lost is not None:
            raise StoreUnavailable("the engine ended the whole transaction; nothing of it was kept")
        unit = self._units.pop()
        for place, rows in self._appended.items():
            del rows[unit.appended.get(place, 0) :]
        # What is queued was queued inside the unit: its beginning was the first thing in an empty queue.
        self._queue, self._checks, self._takes, self._attributed = [], {}, {}, []
        if unit.sent:
            self._add(unit.control("ROLLBACK TO"))
            self._add(unit.control("RELEASE"))
            self.doomed = self.blamed = None

    def attribute(self, to: int) -> None:
        self._whose = to

    def notify(self, channel: str) -> None:
        self._check_open()
        if self.channels is None:
            self.channels = set()
        self.channels.add(channel)

    # -- for whoever drives it ----------------------------------------------------------------------------------

    async def before_commit(self) -> None:
        """Behind the body's end: write what was appended, and run the checks that may still undo it all, unless the
        server can take them over."""
        for (table, columns), rows in self._appended.items():
            if not rows:
                continue
            marks = ", ".join("?" * len(columns))
            sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - identifiers from code
            await self.execute_many(sql, rows)
        if self._takes or (self._checks and not self._counted_by_server()):
            await self.flush()

    def take_queue(self) -> list[Bound]:
        """What is left to be sent with COMMIT."""
        queue, self._queue, self._attributed = self._queue, [], []
        return queue

    def refusal(self, error: pq.abc.PGresult, place: int) -> BaseException:
        """What it means that statement number `place` of those sent with COMMIT failed."""
        counted = self._counted.get(place)
        if counted is not None:
            text, expected = counted
            changed = found_changed(error)
            if changed is not None:
                try:
                    expected(changed)
                except BaseException as refused:  # noqa: BLE001 - it is the check's to say which
                    return refused
            if self._counting.refused(text, expected.rows, error):
                return Again("a statement cannot be counted by the server; it runs once more without")
        return translated(error)

    def end(self) -> None:
        """The transaction is over."""
        self._ended = True

    # -- inside -------------------------------------------------------------------------------------------------

    def _counted_by_server(self) -> bool:
        """Make what is queued fail by itself where a check would refuse it; False when that cannot be said for all."""
        counted: list[tuple[int, Expected, bytes]] = []
        for place, check in self._checks.items():
            found = None
            if isinstance(check, Expected):
                found = self._counting.counted(self._queue[place][0], check.rows)
                if found is not None:
                    counted.append((place, check, found))
            if found is None:
                return False
        for place, expected, found in counted:
            text, params = self._queue[place]
            self._queue[place] = found, params
            self._counted[place] = text, expected
        return True

    def _bound(self, sql: str, params: Sequence[Param]) -> Bound:
        clock = self._clock
        found = statement(sql, clock is not None)
        if found.now and clock is not None:
            given = list(params)
            for place in found.now:
                given.insert(place, clock.now_us())
            params = given
        return found.text, encoded(params)

    def _add(self, bound: Bound) -> None:
        self._check_open()
        self._queue.append(bound)
        self._attributed.append(self._whose)

    async def _run(self, last: Bound | None) -> list[pq.abc.PGresult]:
        """Send what is queued and `last`; their results. Checks run in order, before an error of a later statement."""
        self._check_open()
        if self.doomed is not None:
            raise self.doomed
        if last is not None:
            self._add(last)
        outgoing, checks, takes, attributed = self._queue, self._checks, self._takes, self._attributed
        self._queue, self._attributed = [], []
        if checks:
            self._checks = {}
        if takes:
            self._takes = {}
        first = 0 if self.begun else 1
        exchange = await self._exchange(outgoing if self.begun else [BEGIN, *outgoing])
        results = exchange.results[first:]
        for place, check in checks.items():
            if place < len(results):
                try:
                    check(_changed(results[place]))
                except BaseException as error:
                    self._doom(error, attributed[place])
                    raise
        if exchange.error is not None:
            error = translated(exchange.error)
            self._doom(error, attributed[len(results)] if len(results) < len(attributed) else None)
            raise error
        if exchange.lost is not None:
            self.doomed = exchange.lost
            raise exchange.lost
        for place, take in takes.items():
            take(self._connection.rows(results[place]))
        return results

    async def _exchange(self, outgoing: list[Bound]) -> Exchange:
        for unit in self._units:
            unit.sent = True
        self.outgoing = outgoing
        await _answer()
        exchange, self.reply = self.reply, None
        assert exchange is not None
        return exchange

    def _doom(self, error: BaseException, whose: int | None) -> None:
        self.doomed = error
        if whose is not None:
            self.blamed = (whose, error)

    async def _arrays(self, many: ManyRows, rows: Sequence[Sequence[Param]]) -> Bound | None:
        """One statement for all rows; None where a column is of a type that has no array here."""
        known = self._types.get(many.table)
        if known is None:
            found = await self._run((_TYPES, encoded((many.table,))))
            known = self._types[many.table] = dict(self._connection.rows(found[-1]))
        kinds = [known.get(column) for column in many.columns]
        if None in kinds:
            return None  # a column that does not exist: the server says so, about the plain statement
        values: list[bytes | None] = []
        formats: list[int] = []
        for column, kind in zip(zip(*rows, strict=True), kinds, strict=True):
            value, format_ = array(column, kind == "bytea")
            values.append(value)
            formats.append(format_)
        marks = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(kinds, 1))
        return many.template.replace("{arrays}", marks).encode(), (values, formats)

    async def _insert_one(self, table: str, columns: Sequence[str], row: Sequence[Param]) -> bool:
        marks = ", ".join("?" * len(columns))
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608 - as above
        return await self.execute(sql, *row) == 1

    def _check_open(self) -> None:
        if self._ended:
            raise MillstreamError("this transaction has ended: a Tx is valid only until its handler returns")


class _Unit:
    """An open savepoint. `sent`: the server knows it; `appended`: how many rows were appended to each table before it."""

    __slots__ = ("_number", "appended", "sent")

    def __init__(self, number: int, appended: dict[tuple[str, tuple[str, ...]], int]) -> None:
        self._number = number
        self.appended = appended
        self.sent = False

    def control(self, word: str) -> Bound:
        # Each depth has its own name: going back to one takes what is inside it along, released or not.
        return f"{word} unit_{self._number}".encode(), NO_PARAMETERS


def _changed(result: pq.abc.PGresult) -> int:
    """How many rows a statement changed: a read changes none."""
    status: Any = result.command_status
    if status is None or status.startswith(b"SELECT"):
        return 0
    return result.command_tuples or 0
