"""The rows of the embedded log, and every statement on them.

A record is a row under `stream << 40 | position`, where a stream is one partition of one topic. Rows of a stream lie
beside each other, an append goes to pages that are already in memory, and the tree is three levels deep at ten
million rows. A counter per stream, changed in the transaction of its records, gives positions without gaps, and none
is ever given twice, also when retention has removed every row. Why not WITHOUT ROWID: docs/adr/0002.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from ...errors import Misconfigured
from ...message import Record
from ...sqlite.many import Insert
from .recent import Recent

__all__ = [
    "Marks",
    "Stream",
    "append",
    "create_topic",
    "delete",
    "fetch",
    "forget",
    "load",
    "save_marks",
    "written_before",
]

FORMAT = 1
POSITION_BITS = 40
"""A trillion positions a stream: a year at 30,000 records a second. Eight million streams fit above them."""
READ_BYTES = 4 * 1024 * 1024
"""A read ends with the record that passes this size: a batch of large records must not fill memory."""

_SCHEMA = f"""
CREATE TABLE topics (topic TEXT PRIMARY KEY, partitions INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE streams (
    stream INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    head INTEGER NOT NULL DEFAULT 0, earliest INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition));
CREATE TABLE records (id INTEGER PRIMARY KEY, key TEXT, value BLOB NOT NULL);
CREATE TABLE ticks (stream INTEGER, position INTEGER, at INTEGER NOT NULL, PRIMARY KEY (stream, position)) WITHOUT ROWID;
CREATE TABLE marks (
    topic TEXT, subscription TEXT, partition INTEGER, position INTEGER NOT NULL,
    PRIMARY KEY (topic, subscription, partition)) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""

_RECORDS = Insert("records", ("id", "key", "value"))

Marks = dict[str, dict[str, dict[int, int]]]
"""Topic → subscription → partition → position."""


class Stream:
    """One partition of one topic: its counters as of the last commit, and who waits for more."""

    __slots__ = ("base", "earliest", "head", "next_tick_us", "number", "partition", "recent", "topic", "waiters")

    def __init__(self, number: int, topic: str, partition: int, head: int = 0, earliest: int = 0) -> None:
        self.number = number
        self.base = number << POSITION_BITS
        self.topic = topic
        self.partition = partition
        self.head = head
        self.earliest = earliest
        self.next_tick_us = 0
        self.recent = Recent(head)
        self.waiters: set[asyncio.Future[None]] = set()

    def grew(self, records: Sequence[Record]) -> None:
        """These records are durable."""
        self.head = records[-1].position
        self.recent.add(records)
        self.wake()

    def shrank(self, earliest: int) -> None:
        """Records up to `earliest` are gone."""
        self.earliest = max(self.earliest, earliest)
        self.recent.forget(earliest)

    def wake(self) -> None:
        """Let everybody who waits look again."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


def load(connection: apsw.Connection) -> tuple[dict[str, list[Stream]], Marks]:
    """The streams of every topic, and the marks; in a new file the tables are made first.

    Raises:
        Misconfigured: the file was written by a newer version.
    """
    version = connection.pragma("user_version")
    if version == 0:
        _run(connection, _SCHEMA)
    elif version != FORMAT:
        raise Misconfigured(f"the log has format {version}, this version of Millstream reads {FORMAT}")
    topics: dict[str, list[Stream]] = {}
    for number, topic, partition, head, earliest in _run(
        connection, "SELECT stream, topic, partition, head, earliest FROM streams ORDER BY topic, partition"
    ):
        topics.setdefault(topic, []).append(Stream(number, topic, partition, head, earliest))
    marks: Marks = {}
    for topic, subscription, partition, position in _run(connection, "SELECT * FROM marks"):
        marks.setdefault(topic, {}).setdefault(subscription, {})[partition] = position
    return topics, marks


def create_topic(connection: apsw.Connection, topic: str, partitions: int) -> list[Stream] | None:
    """The streams of a new topic; None when it exists."""
    if _run(connection, "SELECT 1 FROM topics WHERE topic = ?", (topic,)):
        return None
    _run(connection, "INSERT INTO topics VALUES (?, ?)", (topic, partitions))
    streams: list[Stream] = []
    for partition in range(partitions):
        sql = "INSERT INTO streams (topic, partition) VALUES (?, ?) RETURNING stream"
        ((number,),) = _run(connection, sql, (topic, partition))
        streams.append(Stream(number, topic, partition))
    return streams


def append(connection: apsw.Connection, stream: Stream, records: Sequence[Record], tick_us: int | None) -> list[Record]:
    """Add records at the end; return them with their positions. `tick_us`: write down that it is this late."""
    sql = "UPDATE streams SET head = head + ? WHERE stream = ? RETURNING head"
    ((head,),) = _run(connection, sql, (len(records), stream.number))
    first = head - len(records) + 1
    if tick_us is not None:
        _run(connection, "INSERT INTO ticks VALUES (?, ?, ?)", (stream.number, first, tick_us))
    placed = [Record(record.value, record.key, position) for position, record in enumerate(records, first)]
    base = stream.base
    _RECORDS.run(connection, [(base + record.position, record.key, record.value) for record in placed])
    return placed


def fetch(connection: apsw.Connection, stream: Stream, after: int, limit: int) -> list[Record]:
    """Up to `limit` records behind `after`, none behind the stream's head."""
    found: list[Record] = []
    base, size = stream.base, 0
    rows: Any = connection.execute(
        "SELECT id, key, value FROM records WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
        (base + after, base + stream.head, limit),
    )
    for id_, key, value in rows:
        found.append(Record(value, key, id_ - base))
        size += len(value)
        if size > READ_BYTES:
            break
    rows.close()  # a read left open would keep the WAL from starting again
    return found


def written_before(connection: apsw.Connection, stream: Stream, at_us: int) -> int:
    """A position up to which every record was surely written before `at_us`."""
    sql = "SELECT max(position) FROM ticks WHERE stream = ? AND at <= ?"
    ((tick,),) = _run(connection, sql, (stream.number, at_us))
    return 0 if tick is None else tick - 1


def delete(connection: apsw.Connection, stream: Stream, up_to: int) -> None:
    """Remove the records up to a position, and remember that they are gone."""
    ids = (stream.base + stream.earliest, stream.base + up_to)
    _run(connection, "DELETE FROM records WHERE id > ? AND id <= ?", ids)
    _run(connection, "DELETE FROM ticks WHERE stream = ? AND position <= ?", (stream.number, up_to))
    _run(connection, "UPDATE streams SET earliest = max(earliest, ?) WHERE stream = ?", (up_to, stream.number))


def save_marks(connection: apsw.Connection, rows: Iterable[tuple[str, str, int, int]]) -> None:
    """Write (topic, subscription, partition, position)."""
    connection.executemany(
        "INSERT INTO marks VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET position = excluded.position", rows
    )


def forget(connection: apsw.Connection, topic: str, subscription: str) -> None:
    """Remove a subscription's marks."""
    _run(connection, "DELETE FROM marks WHERE topic = ? AND subscription = ?", (topic, subscription))


def _run(connection: apsw.Connection, sql: str, params: tuple[Any, ...] = ()) -> list[Any]:
    return connection.execute(sql, params).fetchall()
