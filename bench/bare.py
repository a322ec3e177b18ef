"""Plain apsw, as fast as it goes: what the ceilings are made of. Nothing of Millstream is imported here.

A `BareFile` works as the product must: synchronous=FULL, WAL, statements inline, COMMIT in a thread (apsw releases the
interpreter), checkpoints in another. `Pipeline` drives several of them beside each other, so that the commits of one
overlap the statements of the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import apsw

__all__ = ["BareFile", "Pipeline", "Stage", "Work", "schema_of"]

Rows = Sequence[tuple[Any, ...]]
Work = tuple[str, Rows]
"""A statement and the rows of its parameters."""

CHECKPOINT_PAGES = 2_000


def schema_of(path: Path) -> list[str]:
    """The statements that made the tables and indexes of a file."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rootpage"
    found = [row[0] for row in connection.execute(sql)]
    connection.close()
    return found


class BareFile:
    """One SQLite file with one writer. Open with `with`."""

    def __init__(self, path: Path, schema: Iterable[str], synchronous: str = "FULL") -> None:
        self.path = path
        self.commits = 0
        self._synchronous = synchronous
        self._schema = list(schema)
        self._pages = 0
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._checkpoints: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    def write(self, work: Iterable[Work], done: Callable[[], object]) -> None:
        """One transaction: the statements now, the commit in the thread, then `done` there."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        for sql, rows in work:
            connection.executemany(sql, rows)

        def commit() -> None:
            connection.execute("COMMIT")
            self.commits += 1
            if self._pages >= CHECKPOINT_PAGES:
                self._pages = 0
                self._checkpoints.put(self._checkpoint)
            done()

        self._jobs.put(commit)

    def _checkpoint(self) -> None:
        connection = self._connect()
        connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
        connection.close()

    def _on_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(5_000)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", self._synchronous)
        connection.pragma("cache_size", -8_192)
        return connection

    def __enter__(self) -> Self:
        self.connection = self._connect()
        self.connection.wal_autocheckpoint(0)
        self.connection.set_wal_hook(self._on_wal)
        for sql in self._schema:
            self.connection.execute(sql)
        queues = (self._jobs, self._checkpoints)
        self._threads = [threading.Thread(target=_run, args=(queue,), daemon=True) for queue in queues]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for queue, thread in zip((self._jobs, self._checkpoints), self._threads, strict=True):
            queue.put(None)
            thread.join()
        self.connection.close()


def _run(queue: SimpleQueue[Callable[[], object] | None]) -> None:
    while (job := queue.get()) is not None:
        job()


class Stage:
    """What one file does with its rows 0 to `total`, in groups of `size` rows a commit.

    work: the statements for the rows `start` to `end`. after: the stage whose committed rows it may take; None: all are
    there from the start. trail: a second piece of work that shares this stage's commits, for rows that the stage
    `behind` has committed: taking out of the outbox what the log has confirmed.
    """

    def __init__(
        self,
        file: BareFile,
        total: int,
        size: int,
        work: Callable[[int, int], Iterable[Work]],
        *,
        after: Stage | None = None,
    ) -> None:
        self.file = file
        self.total = total
        self.size = max(1, size)
        self.work = work
        self.after = after
        self.started = 0
        self.committed = 0
        self.trail: Callable[[int, int], Iterable[Work]] | None = None
        self.behind: Stage | None = None
        self.trailed = 0

    @property
    def finished(self) -> bool:
        """Whether everything is durable."""
        return self.committed == self.total and (self.trail is None or self.trailed == self.total)

    def next_work(self) -> list[Work]:
        """The statements of the next commit; none while there are too few rows for one."""
        given = self.total if self.after is None else self.after.committed
        rows = min(self.size, given - self.started)
        if rows < self.size and given < self.total:
            return []
        work = list(self.work(self.started, self.started + rows)) if rows else []
        self.started += rows
        return work + self._trailing_work()

    def _trailing_work(self) -> list[Work]:
        if self.trail is None or self.behind is None:
            return []
        start, end = self.trailed, min(self.behind.committed, self.trailed + self.size)
        self.trailed = end
        return list(self.trail(start, end)) if end > start else []


class Pipeline:
    """Drives stages beside each other, the last one first, so that nothing queues up between them."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._busy: set[Stage] = set()
        self._completed: SimpleQueue[Stage] = SimpleQueue()

    def run(self) -> None:
        """Write everything; returns when the last commit is durable."""
        while self._busy or not all(stage.finished for stage in self._stages):
            if not any(self._step(stage) for stage in reversed(self._stages) if stage not in self._busy):
                stage = self._completed.get(timeout=60)
                self._busy.discard(stage)
                stage.committed = stage.started

    def _step(self, stage: Stage) -> bool:
        work = stage.next_work()
        if work:
            self._busy.add(stage)
            stage.file.write(work, lambda: self._completed.put(stage))
        return bool(work)
