"""A system of its own: `millstream up` as a child process, on a temporary folder and a free port."""

from __future__ import annotations

import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import msgspec

from ...errors import MillstreamError, Transient
from ..output import hint

__all__ = ["OwnSystem", "own_system"]

START_SECONDS = 60.0
STOP_SECONDS = 60.0


class _Ready(msgspec.Struct, frozen=True):
    url: str
    seconds: float


class OwnSystem(msgspec.Struct):
    """A running child. `keep` leaves its folder in place when it has stopped."""

    url: str
    data: Path
    ready_seconds: float
    pid: int
    keep: bool = False


@contextmanager
def own_system(app: str | None) -> Generator[OwnSystem]:
    """Start it, and stop it on leaving. After an error its folder stays, and is named, so that it can be looked into.

    Raises:
        Transient: it does not become ready, or does not stop cleanly; says what it wrote.
    """
    folder = Path(tempfile.mkdtemp(prefix="millstream-load-"))
    data, log = folder / "var", folder / "up.log"
    command = [sys.executable, "-m", "millstream", "up", "--port", "0", "--data", str(data), "--json"]
    if app is not None:
        command.insert(4, app)
    with log.open("wb") as errors:
        # A session of its own: Ctrl-C stops the load, which then stops its system in order.
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
    try:
        ready = _wait_until_ready(child, log)
        system = OwnSystem(ready.url, data, ready.seconds, child.pid)
        yield system
        _stop(child, log)
    except BaseException:
        if child.poll() is None:
            child.kill()
            child.wait()
        hint(f"the system's data and log are kept in {folder}")
        raise
    finally:
        if child.stdout is not None:
            child.stdout.close()
    if system.keep:
        hint(f"the system's data and log are kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(child: subprocess.Popen[bytes], log: Path) -> _Ready:
    assert child.stdout is not None
    until = monotonic() + START_SECONDS
    while monotonic() < until:
        readable, _, _ = select.select([child.stdout], [], [], 0.5)
        if readable:
            line = child.stdout.readline()
            if not line:
                break
            try:
                return msgspec.json.decode(line, type=_Ready)
            except msgspec.DecodeError:
                continue  # something else that the services print
        if child.poll() is not None:
            break
    raise Transient(f"`millstream up` did not become ready: {_tail(log)}")


def _stop(child: subprocess.Popen[bytes], log: Path) -> None:
    if child.poll() is not None:
        raise Transient(f"`millstream up` ended on its own with {child.returncode}: {_tail(log)}")
    child.send_signal(signal.SIGTERM)
    try:
        code = child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Transient(f"`millstream up` did not stop within {STOP_SECONDS:.0f} s: {_tail(log)}") from error
    if code != 0:
        raise MillstreamError(f"`millstream up` stopped with {code}: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip() or "it wrote nothing"
