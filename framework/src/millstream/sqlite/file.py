"""One SQLite file with one writer: transactions that are ready together share one durable commit.

Statements run inline on the event loop; only COMMIT goes to a thread (rule T1). While it runs, new work queues up and
becomes the next group: the slower the disk, the larger the groups. Each member has a savepoint from its first statement
on, so a failing one costs the others nothing; whoever took part, even only to read, gets its answer after the group's
commit (rule T2). Rows that no member reads back are collected and written at the end of the group, many by one statement.
"""

from __future__ import annotations

import asyncio
import contextvars
import fcntl
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import apsw

from ..clock import Clock, SystemClock
from ..errors import Misconfigured, StoreUnavailable
from ..ports.instrumentation import Instrumentation, Silent
from .many import Insert
from .thread import Worker, WorkerThread

__all__ = ["OLDEST_LIBRARY", "SqliteFile"]

R = TypeVar("R")
OLDEST_LIBRARY = (3, 51, 3)
"""Older versions can corrupt a database when a WAL is reset while another connection checkpoints."""
GROUP_LIMIT = 500
GROUP_SECONDS = 0.008
"""A group stops growing after this time on the loop, so that requests and timers get their turn."""
CHECKPOINT_PAGES = 2_000
"""8 MB of WAL: copy it into the database beside the running writer."""
CHECKPOINT_PATIENCE_MS = 100
"""How long a checkpoint waits for readers that are in its way."""
RESTART_PAGES = 16_000
"""64 MB of WAL: the writer outran the copying; hold it for a moment so that the WAL starts again from its beginning."""

Member = tuple[Callable[[apsw.Connection], Any], "asyncio.Future[Any]", contextvars.Context, bool]
"""What to run, who waits for it, the context to run it in, and whether it begins its savepoint by itself."""


class SqliteFile:
    """Open with `async with`. Not shared between processes: a second one is refused.

    path: the database file. synchronous: `FULL` survives a power cut; anything weaker is for measurements only.
    worker: makes what runs commits, checkpoints and long reads beside the loop, by name. vfs: SQLite's way to the file, if
    it is not the system's own.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        name: str = "",
        synchronous: str = "FULL",
        instrumentation: Instrumentation | None = None,
        cache_kib: int = 8_192,
        worker: Callable[[str], Worker] = WorkerThread,
        vfs: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = name or self.path.stem
        self._clock = clock or SystemClock()
        self._synchronous = synchronous
        self._instrumentation = instrumentation or Silent()
        self._labels = (("store", self.name),)
        self._cache_kib = cache_kib
        self.worker = worker
        self._vfs = vfs
        self._waiting: deque[Member] = deque()
        self._running = False
        self._held = False
        self._checkpointing = False
        self._committing = False
        self._in_savepoint = False
        self._appended: list[tuple[Insert, list[Sequence[Any]]]] = []
        self._closed = True
        self._wal_pages = 0
        self._copied_pages = 0
        self._restart_at = RESTART_PAGES
        self._hooks: dict[Callable[[], object], None] = {}
        self._idle: asyncio.Future[None] | None = None
        self._lock_fd = -1

    # -- opening and closing ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
        if version < OLDEST_LIBRARY:
            raise Misconfigured(f"SQLite {apsw.sqlite_lib_version()} can corrupt a WAL; install apsw 3.51.3 or later")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock()
        try:
            self._writer = self.connect()
            self._writer.wal_autocheckpoint(0)
            self._writer.set_wal_hook(self._on_wal)
            self._writer.set_commit_hook(lambda: not self._committing)
            self.cursor = self._writer.cursor()
            """The writer's, shared by all members: to make one for each statement is a fifth of its cost."""
            self.reader = self.connect(read_only=True)
        except apsw.Error as error:
            self._unlock()
            raise StoreUnavailable(f"{self.path}: cannot be opened: {error}") from error
        except BaseException:
            self._unlock()
            raise
        self._loop = asyncio.get_running_loop()
        self._committer = self.worker(f"{self.name}-commit")
        self._checkpointer = self.worker(f"{self.name}-checkpoint")
        self._closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        while self._running or self._waiting or self._held or self._checkpointing:
            self._idle = self._loop.create_future()
            await self._idle
        await self._committer.aclose()
        await self._checkpointer.aclose()
        self.reader.close()
        self._writer.close()
        self._unlock()

    @property
    def closed(self) -> bool:
        """Not opened yet, or closed again."""
        return self._closed

    @property
    def busy(self) -> bool:
        """Whether transactions run or wait."""
        return self._running or bool(self._waiting)

    def connect(self, *, read_only: bool = False) -> apsw.Connection:
        """Another connection with the settings that the promise needs, read back."""
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(str(self.path), flags=flags, vfs=self._vfs, statementcachesize=256)
        connection.set_busy_timeout(5_000)
        mode = connection.pragma("journal_mode", "wal")
        if mode != "wal":
            raise Misconfigured(f"{self.path}: journal_mode is {mode}, not wal; use a local disk")
        connection.pragma("synchronous", self._synchronous)
        connection.pragma("mmap_size", 0)
        connection.pragma("cache_size", -self._cache_kib)
        connection.pragma("temp_store", "memory")
        connection.pragma("foreign_keys", 1)
        connection.create_scalar_function("millstream_now", lambda *_: self._clock.now_us(), 0)
        if read_only:
            connection.pragma("query_only", 1)
        return connection

    def settings(self) -> dict[str, object]:
        """What the writer's connection really runs with."""
        return {name: self._writer.pragma(name) for name in ("journal_mode", "synchronous", "mmap_size", "fullfsync")}

    def _lock(self) -> None:
        self._lock_fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._lock_fd, 32).decode(errors="replace").strip()
            os.close(self._lock_fd)
            raise Misconfigured(
                f"{self.path} is in use by process {holder or 'unknown'}: stop that one, or choose another --data "
                "folder. To look at a running system use the commands that reach it through its admin address."
            ) from error
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    def _unlock(self) -> None:
        os.close(self._lock_fd)

    # -- groups -------------------------------------------------------------------------------------------------

    def write(self, work: Callable[[apsw.Connection], R], *, lazy: bool = False) -> asyncio.Future[R]:
        """Run `work` in a savepoint of the next group; the future has its result once the group is durable.

        An exception from `work` undoes all it did and becomes the future's, after the group's commit too. lazy: `work`
        calls `begin` before its first statement; one without a statement then costs no savepoint.

        Raises:
            StoreUnavailable: the file is closed; or, by the future, the group could not be committed.
        """
        if self._closed:
            raise StoreUnavailable(f"{self.path}: closed")
        future: asyncio.Future[R] = self._loop.create_future()
        self._waiting.append((work, future, contextvars.copy_context(), lazy))
        if not self._running and not self._held:
            self._running = True
            self._loop.call_soon(self._run_group)
        return future

    def begin(self) -> None:
        """From inside lazy `work`: what follows is undone if it fails."""
        if not self._in_savepoint:
            self._writer.execute("SAVEPOINT member")
            self._in_savepoint = True

    def append(self, rows: Insert, values: Sequence[Sequence[Any]]) -> None:
        """From inside `work`, as its last act: insert these rows behind those that earlier members appended, in the same
        commit. Nothing may refuse one of them: that would cost the whole group."""
        if self._appended and self._appended[-1][0] is rows:
            self._appended[-1][1].extend(values)
        else:
            self._appended.append((rows, list(values)))

    def after_commit(self, hook: Callable[[], object]) -> None:
        """From inside `work`: call `hook` on the loop once this group is durable, once for all members that ask for the
        same; never if the group fails."""
        self._hooks[hook] = None

    def _run_group(self) -> None:
        writer, waiting = self._writer, self._waiting
        members: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        began = self._clock.monotonic()
        try:
            writer.execute("BEGIN IMMEDIATE")
            before = writer.total_changes()
            while waiting and len(members) < GROUP_LIMIT:
                work, future, context, lazy = waiting.popleft()
                if future.cancelled():
                    continue  # cancelled before it started: it never runs
                hooks = len(self._hooks)
                self._in_savepoint = False
                if not lazy:
                    self.begin()
                try:
                    result = context.run(work, writer)
                    if self._in_savepoint:
                        writer.execute("RELEASE member")
                    members.append((future, result, None))
                except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the member that raised it
                    members.append((future, None, error))
                    self._undo(hooks, error)
                if self._clock.monotonic() - began > GROUP_SECONDS:
                    break
            self._write_appended()
            changed = writer.total_changes() != before
        except BaseException as error:  # noqa: BLE001 - the group fails as one
            self._fail(members, error)
            return
        if changed:
            self._committer.submit(self._commit, lambda _, error: self._settle(members, error))
        else:
            error = None
            try:
                self._commit()  # nothing to sync: not worth a trip to the thread
            except apsw.Error as caught:
                error = caught
            self._settle(members, error)

    def _undo(self, hooks: int, error: BaseException) -> None:
        """Take back what the member at hand did, and the hooks it added to the first `hooks`."""
        while len(self._hooks) > hooks:
            self._hooks.popitem()
        # A full disk or an I/O error may have ended the whole transaction, the other members included.
        if not self._writer.in_transaction:
            raise StoreUnavailable(f"{self.path}: the engine ended the transaction: {error}") from error
        if self._in_savepoint:
            self._writer.execute("ROLLBACK TO member")
            self._writer.execute("RELEASE member")

    def _write_appended(self) -> None:
        appended, self._appended = self._appended, []
        for rows, values in appended:
            rows.run(self.cursor, values)

    def _commit(self) -> None:
        # The hook turns any other COMMIT, one in a member's own SQL, into a rollback: it would keep half of a group.
        self._committing = True
        try:
            self._writer.execute("COMMIT")
        finally:
            self._committing = False

    def _settle(
        self, members: list[tuple[asyncio.Future[Any], Any, BaseException | None]], error: BaseException | None
    ) -> None:
        if error is not None:
            self._fail(members, error)
            return
        for future, result, failure in members:
            if not future.done():
                if failure is None:
                    future.set_result(result)
                else:
                    future.set_exception(failure)
        hooks, self._hooks = self._hooks, {}
        for hook in hooks:
            hook()
        self._instrumentation.count("millstream_store_commits_total", self._labels)
        self._instrumentation.count("millstream_store_transactions_total", self._labels, len(members))
        self._next()

    def _fail(self, members: list[tuple[asyncio.Future[Any], Any, BaseException | None]], error: BaseException) -> None:
        with suppress(apsw.Error):  # a disk that refuses this too: the next group says so, and nobody waits for ever
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        self._hooks, self._appended = {}, []
        for future, _, failure in members:
            if not future.done():
                unavailable = StoreUnavailable(f"{self.path}: nothing of this transaction was kept: {error}")
                unavailable.__cause__ = failure or error
                future.set_exception(unavailable)
        self._instrumentation.log("error", "store_group_failed", store=self.name, error=str(error))
        self._next()

    def _next(self) -> None:
        if self._wal_pages < self._copied_pages:
            self._copied_pages, self._restart_at = 0, RESTART_PAGES  # the WAL started again from its beginning
        if not self._checkpointing and self._wal_pages - self._copied_pages >= CHECKPOINT_PAGES:
            self._checkpointing = True
            self._copied_pages = self._wal_pages
            if self._wal_pages >= self._restart_at:
                self._held = True
                # A long read may keep the WAL from starting again: then not every commit shall wait for it.
                self._restart_at = self._wal_pages + RESTART_PAGES
            mode = apsw.SQLITE_CHECKPOINT_RESTART if self._held else apsw.SQLITE_CHECKPOINT_PASSIVE
            self._checkpointer.submit(lambda: self._checkpoint(mode), self._checkpointed)
        self._resume()

    def _resume(self) -> None:
        if self._waiting and not self._held:
            self._running = True
            # Behind the tasks that were just woken: what they write next still joins this group.
            self._loop.call_soon(self._run_group)
        else:
            self._running = False
            self._tell_idle()

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _on_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self, mode: int) -> tuple[int, int]:
        connection = self.connect()
        connection.set_busy_timeout(CHECKPOINT_PATIENCE_MS)
        try:
            return connection.wal_checkpoint("main", mode)
        finally:
            connection.close()

    def _checkpointed(self, result: object, error: BaseException | None) -> None:
        self._checkpointing = False
        if error is not None:
            self._instrumentation.log("warning", "checkpoint_failed", store=self.name, error=str(error))
        if self._held:
            self._held = False
            if not self._running:
                self._resume()
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
