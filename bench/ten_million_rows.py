"""ten_million_rows: throughput with ten million rows in inbox and log, beside throughput with ten thousand.

The rows are made by plain SQL before the measured runs, as a long life would have left them: ids that sort by time as
fresh ids do, records of the size of the measured ones, counters and positions that follow them. Then both systems run
the load of embedded_end_to_end, turn by turn. The `ceiling` of this figure is the run at ten thousand rows.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import apsw

from .embedded import CONSUMER, LOG, PRODUCER, embedded, run, wait_until
from .embedded_end_to_end import produce
from .figures import Figure, Goal

__all__ = ["measure"]

FEW = 10_000
FILL_CHUNK = 250_000
AGE_SECONDS = 86_400
"""The rows were accepted during the day before."""
GOAL = Goal(ratio_at_least=0.8)

_NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?2)"
# Version 7 of RFC 9562, as `Ids` writes them: 48 bits of milliseconds, a counter, random digits.
_INBOX = f"""
{_NUMBERS} INSERT INTO millstream_inbox (subscription, source, id, partition, time)
SELECT ?3, ?4, printf('%012x7%03x8%015x', ?5 + n * ?6 / ?7, n & 0xfff, abs(random()) >> 3), n % ?8,
       (?5 + n * ?6 / ?7) * 1000
FROM numbers
"""
_RECORDS = f"""
{_NUMBERS} INSERT INTO records (id, key, value) SELECT (?3 << 40) + n + 1, 'key-' || printf('%04d', n % 1000), ?4
FROM numbers
"""


def measure(folder: Path, rows: int = 10_000_000, events: int = 80_000, runs: int = 3) -> list[Figure]:
    """Events/s at `rows` rows, and at ten thousand."""
    places = {count: folder / str(count) for count in (FEW, rows)}
    filled: dict[int, float] = {}
    for count, place in places.items():
        place.mkdir()
        run(_create(place))
        began = time.perf_counter()
        _fill_inbox(place / f"{CONSUMER}.db", count)
        _fill_log(place / f"{LOG}.db", count)
        _move_positions(place, count)
        filled[count] = time.perf_counter() - began
    found: dict[int, list[float]] = {count: [] for count in places}
    for number in range(runs):
        for count, place in places.items():
            found[count].append(run(_run_once(place, events, number * events)))
    details: dict[str, Any] = {"rows": rows, "events": events, "fill_seconds": filled, "runs": found}
    return [Figure("ten_million_rows", median(found[rows]), "events/s", median(found[FEW]), GOAL, details)]


async def _create(place: Path) -> None:
    """Tables, topic, subscription and claims, as the first start makes them."""
    async with embedded(place):
        pass


async def _run_once(place: Path, events: int, first: int) -> float:
    async with embedded(place) as system:
        began = time.perf_counter()
        await produce(system, events, first)
        await wait_until(lambda: system.handled() >= events, 60.0, f"{system.handled()} of {events} were handled")
        took = time.perf_counter() - began
        sql = "SELECT COUNT(*), COUNT(DISTINCT n) FROM handled WHERE n >= ? AND n < ?"
        rows = await system.store(CONSUMER).query(sql, first, first + events)
        assert rows == [(events, events)], f"{events} events published, (handled, different ones) is {rows}"
    return events / took


def _fill_inbox(path: Path, count: int) -> None:
    connection = _unsafe(path)
    ((subscription, partitions),) = connection.execute("SELECT id, partitions FROM millstream_subscriptions").fetchall()
    began_ms = time.time_ns() // 1_000_000 - AGE_SECONDS * 1000
    for start in range(0, count, FILL_CHUNK):
        end = min(start + FILL_CHUNK, count)
        values = (start, end, subscription, f"/{PRODUCER}", began_ms, AGE_SECONDS * 1000, count, partitions)
        connection.execute(_INBOX, values)
    connection.execute("PRAGMA journal_mode = wal")
    connection.close()


def _fill_log(path: Path, count: int) -> None:
    connection = _unsafe(path)
    streams = [row[0] for row in connection.execute("SELECT stream FROM streams ORDER BY stream")]
    value = b"{" + b" " * 520 + b"}"
    for stream in streams:
        each = count // len(streams)
        for start in range(0, each, FILL_CHUNK):
            connection.execute(_RECORDS, (start, min(start + FILL_CHUNK, each), stream, value))
        connection.execute("UPDATE streams SET head = ? WHERE stream = ?", (each, stream))
    connection.execute("PRAGMA journal_mode = wal")
    connection.close()


def _move_positions(place: Path, count: int) -> None:
    """The consumer has read everything that is in the log."""
    log, consumer = apsw.Connection(str(place / f"{LOG}.db")), apsw.Connection(str(place / f"{CONSUMER}.db"))
    for partition, head in log.execute("SELECT partition, head FROM streams"):
        consumer.execute(
            "UPDATE millstream_claims SET position = ? WHERE subscription != 0 AND partition = ?", (head, partition)
        )
    ((found,),) = consumer.execute("SELECT COUNT(*) FROM millstream_inbox").fetchall()
    assert found == count, f"{found} rows in the inbox, not {count}"
    log.close()
    consumer.close()


def _unsafe(path: Path) -> apsw.Connection:
    """A connection that fills fast and survives nothing."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = off; PRAGMA synchronous = off; PRAGMA cache_size = -65536")
    connection.execute("PRAGMA locking_mode = exclusive")
    return connection
