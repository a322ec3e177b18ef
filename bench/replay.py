"""The bare twin of a whole system: every row that a run left in its files, written again by plain apsw.

The files go beside each other, each in as many commits as the run made, its rows spread evenly over them. What has
passed through the outboxes is taken from the log: each record stood once in the outbox of its source and was deleted.
Not in it: updates of rows (they are written once, in their last state), rows that came and went (parked messages of
effects, lanes), all reading and deciding. So the ceiling is rather too high than too low.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import apsw
import msgspec

from .bare import BareFile, Pipeline, Stage, Work, schema_of

__all__ = ["replay_seconds"]

LOG = "log"
OUTBOX = "millstream_outbox"


class _Source(msgspec.Struct):
    source: str


def replay_seconds(data: Path, commits: Mapping[str, int], place: Path, only: Iterable[str] = ()) -> float:
    """Seconds that plain apsw takes for the rows in `data`; `commits` of each file by its stem, `only`: these files."""
    place.mkdir()
    chosen = [name for name, count in commits.items() if count > 0 and (not only or name in only)]
    passed = _passed_through(data / f"{LOG}.db")
    with ExitStack() as stack:
        stages: list[Stage] = []
        for name in chosen:
            file = stack.enter_context(BareFile(place / f"{name}.db", schema_of(data / f"{name}.db")))
            rows = _FileRows(data / f"{name}.db", commits[name], passed[name])
            stages.append(Stage(file, commits[name], 1, rows.work))
        began = time.perf_counter()
        Pipeline(stages).run()
        return time.perf_counter() - began


class _FileRows:
    """The statements of one file, cut into `commits` parts."""

    def __init__(self, path: Path, commits: int, passed: list[tuple[Any, ...]]) -> None:
        self._commits = commits
        self._parts: list[tuple[str, list[tuple[Any, ...]], int]] = []
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        for (table,) in names.fetchall():
            columns = [row[1] for row in connection.execute(f'PRAGMA table_xinfo("{table}")') if not row[6]]
            listed = ", ".join(f'"{column}"' for column in columns)
            found: list[tuple[Any, ...]] = connection.execute(f'SELECT {listed} FROM "{table}"').fetchall()
            self._add(f'INSERT INTO "{table}" ({listed}) VALUES ({", ".join("?" * len(columns))})', found)
        connection.close()
        if passed:
            ids = range(1, len(passed) + 1)
            rows = [(id_, id_ % 128, *record) for id_, record in zip(ids, passed, strict=True)]
            self._add(f"INSERT INTO {OUTBOX} (id, slot, topic, key, value) VALUES (?, ?, ?, ?, ?)", rows)
            # One commit later: a row is deleted when the log has confirmed it.
            self._add(f"DELETE FROM {OUTBOX} WHERE id = ?", [(id_,) for id_ in ids], later=1)

    def _add(self, sql: str, rows: list[tuple[Any, ...]], later: int = 0) -> None:
        if rows:
            self._parts.append((sql, rows, later))

    def work(self, start: int, end: int) -> list[Work]:
        """The rows of the commits `start` to `end`."""
        found: list[Work] = []
        for sql, rows, later in self._parts:
            cut = [min(max(0, n - later) * len(rows) // (self._commits - later or 1), len(rows)) for n in (start, end)]
            if cut[1] > cut[0]:
                found.append((sql, rows[cut[0] : cut[1]]))
        return found


def _passed_through(log: Path) -> dict[str, list[tuple[Any, ...]]]:
    """(topic, key, value) of every record, by the service that published it."""
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    decode = msgspec.json.Decoder(_Source).decode
    connection = apsw.Connection(str(log), flags=apsw.SQLITE_OPEN_READONLY)
    sql = "SELECT s.topic, r.key, r.value FROM records r JOIN streams s ON s.stream = r.id >> 40"
    for topic, key, value in connection.execute(sql):
        found[decode(value).source.removeprefix("/")].append((topic, key, value))
    connection.close()
    return found
