"""The real SQLite store on a simulated machine.

Statements, savepoints, groups and errors are those of the product. Replaced are its thread, by jobs that run inline, and
the lock on its file, which here a simulated process holds: when that is killed, its connections close without a commit
and the lock is free, as the system does it for a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import apsw  # noqa: TID251 - what the system does to the files of a killed process

from ...clock import Clock
from ...errors import Misconfigured
from ...ports.instrumentation import Instrumentation
from ...sqlite.file import SqliteFile
from ...stores.sqlite import SqliteStore
from .machine import InlineWorker
from .process import Process, current

__all__ = ["Disk", "SimulatedSqliteStore"]

SCAN_SECONDS = 0.4
"""How long a long read takes: many syncs."""


@final
class Disk:
    """Where files lie, who holds them, and how long a sync takes.

    delay: seconds of one sync. refuse: called before each; what it raises fails the commit.
    """

    def __init__(self, folder: Path, delay: Callable[[], float], refuse: Callable[[], object] = lambda: None) -> None:
        self.folder = folder
        self.vfs: str | None = None
        """The name of a VFS that files are opened with."""
        self.held: dict[Path, Process | None] = {}
        self._delay = delay
        self._refuse = refuse

    def worker(self, name: str) -> InlineWorker:
        """What runs a file's jobs."""
        if name.endswith("-scan"):  # no commit: it may take long, and nothing refuses it
            return InlineWorker(lambda: SCAN_SECONDS)
        return InlineWorker(self._delay, self._refuse)


class SimulatedSqliteStore(SqliteStore):
    """`SqliteStore` in `<folder of the disk>/<name>.db`."""

    def __init__(
        self,
        name: str,
        disk: Disk,
        *,
        clock: Clock,
        instrumentation: Instrumentation | None = None,
        synchronous: str = "FULL",
    ) -> None:
        path = disk.folder / f"{name}.db"
        super().__init__(path, clock=clock, instrumentation=instrumentation)
        self.file = _SimulatedFile(
            path,
            disk,
            clock=clock,
            instrumentation=instrumentation,
            synchronous=synchronous,
            worker=disk.worker,
            vfs=disk.vfs,
        )


class _SimulatedFile(SqliteFile):
    def __init__(self, path: Path, disk: Disk, **options: Any) -> None:
        super().__init__(path, **options)
        self._disk = disk
        self._connections: list[Any] = []
        self._forget: Callable[[], None] = lambda: None

    def connect(self, *, read_only: bool = False) -> Any:
        connection = super().connect(read_only=read_only)
        self._connections.append(connection)
        return connection

    def _lock(self) -> None:
        if self.path in self._disk.held:
            holder = self._disk.held[self.path]
            raise Misconfigured(f"{self.path} is in use by process {holder.name if holder else 'unknown'}")
        process = current()
        self._disk.held[self.path] = process
        if process is not None:
            self._forget = process.fence(self._abandon)

    def _unlock(self) -> None:
        self._forget()
        self._disk.held.pop(self.path, None)

    def _abandon(self) -> None:
        """The process died."""
        for connection in self._connections:
            with suppress(Exception):  # one is closed already
                # What is in the WAL stays there, as when the system closes the files of a process that is gone.
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                connection.close(True)
        self._disk.held.pop(self.path, None)
