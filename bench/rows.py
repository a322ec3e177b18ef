"""The rows that a run of the two services left in its files, and the statements that write them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from .bare import BareFile, Work
from .embedded import CONSUMER, LOG

__all__ = ["EndToEndRows"]


class EndToEndRows:
    """Read from `folder` once; every method gives the work for the rows `start` to `end`."""

    def __init__(self, folder: Path) -> None:
        log, consumer = _open(folder / f"{LOG}.db"), _open(folder / f"{CONSUMER}.db")
        # By position first: the partitions grew beside each other.
        self.records = log.execute("SELECT id, key, value FROM records ORDER BY id & 0xFFFFFFFFFF, id").fetchall()
        self.streams = log.execute("SELECT * FROM streams").fetchall()
        self.inbox = consumer.execute("SELECT * FROM millstream_inbox").fetchall()
        self.handled = consumer.execute("SELECT * FROM handled ORDER BY id").fetchall()
        self.claims = consumer.execute("SELECT * FROM millstream_claims").fetchall()
        log.close()
        consumer.close()
        self.waiting = [(id_, id_ % 128, "ticks", r[1], r[2]) for id_, r in enumerate(self.records, 1)]
        self.ids = [(row[0],) for row in self.waiting]

    def seed(self, log: BareFile, consumer: BareFile) -> None:
        """The counters and claims that later statements update."""
        log.connection.executemany(f"INSERT INTO streams VALUES ({_marks(self.streams)})", self.streams)
        consumer.connection.executemany(f"INSERT INTO millstream_claims VALUES ({_marks(self.claims)})", self.claims)

    def outbox(self, start: int, end: int) -> list[Work]:
        """Events on their way out."""
        return [("INSERT INTO millstream_outbox VALUES (?, ?, ?, ?, ?)", self.waiting[start:end])]

    def confirmed(self, start: int, end: int) -> list[Work]:
        """Events that the log has."""
        return [("DELETE FROM millstream_outbox WHERE id = ?", self.ids[start:end])]

    def log(self, start: int, end: int) -> list[Work]:
        """Records, and the counter of every stream."""
        counters = [(end, stream[0]) for stream in self.streams]
        return [
            ("UPDATE streams SET head = ? WHERE stream = ?", counters),
            ("INSERT INTO records VALUES (?, ?, ?)", self.records[start:end]),
        ]

    def consumer(self, start: int, end: int) -> list[Work]:
        """Inbox rows, handler's rows, and the position of every claim."""
        positions = [(end, claim[0], claim[1]) for claim in self.claims if claim[0]]
        return [
            ("UPDATE millstream_claims SET position = ? WHERE subscription = ? AND partition = ?", positions),
            (f"INSERT INTO millstream_inbox VALUES ({_marks(self.inbox)})", self.inbox[start:end]),
            (f"INSERT INTO handled VALUES ({_marks(self.handled)})", self.handled[start:end]),
        ]


def _open(path: Path) -> apsw.Connection:
    return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)


def _marks(rows: list[Any]) -> str:
    return ", ".join("?" * len(rows[0]))
