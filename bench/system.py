"""The whole product as a process: `millstream up` on a folder and a free port, asked about itself over HTTP and /proc."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from millstream.clock import SystemClock
from millstream.http.development import development_key, issue_token
from millstream.runtime.settings import load_settings

__all__ = ["System", "running_system"]

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 60.0
_COUNTER = re.compile(r'^millstream_store_commits_total\{store="([^"]+)"\} (\d+)', re.MULTILINE)


class System:
    """A running `up`.

    ready_seconds: from the start of the process to its line that says ready. said_seconds: what that line says, which
    leaves the interpreter's own start and the imports out.
    """

    def __init__(self, process: subprocess.Popen[str], data: Path, url: str, said: float, took: float) -> None:
        self.process = process
        self.data = data
        self.url = url
        self.said_seconds = said
        self.ready_seconds = took

    def token(self, subject: str) -> str:
        """A client's bearer token."""
        key = development_key(load_settings(None, {}, {"data": self.data}).development_key)
        return issue_token(key, subject, (), "1h", clock=SystemClock())

    def memory_mb(self) -> float:
        """Resident memory now, in millions of bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        """CPU time of the process so far, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def commits(self) -> dict[str, int]:
        """Commits so far of each file, by the product's own counters."""
        with urlopen(f"{self.url}/metrics", timeout=10) as reply:
            return {store: int(count) for store, count in _COUNTER.findall(reply.read().decode())}

    def get(self, path: str) -> int:
        """The status of a GET."""
        with urlopen(f"{self.url}{path}", timeout=10) as reply:
            return reply.status


@contextmanager
def running_system(data: Path) -> Generator[System]:
    """Start it on `data` and stop it on leaving.

    Raises:
        RuntimeError: it did not become ready, or did not stop cleanly; says what it wrote.
    """
    log = data.with_suffix(".log")
    command = [str(Path(sys.executable).parent / "millstream"), "up", "--port", "0", "--data", str(data), "--json"]
    began = time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
    timer = threading.Timer(PATIENCE_SECONDS, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter() - began
        timer.cancel()
        if not line:
            raise RuntimeError(f"`millstream up` did not become ready: {log.read_text()[-2000:]}")
        said = json.loads(line)
        yield System(process, data, said["url"], said["seconds"], took)
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE_SECONDS)
        if code != 0:
            raise RuntimeError(f"`millstream up` stopped with {code}: {log.read_text()[-2000:]}")
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
