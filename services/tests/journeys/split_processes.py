"""`millstream up --split` on real engines, as the processes that it is; what a person at a terminal does with it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["SplitProcesses", "alive", "until"]

START_SECONDS = 90.0
PATIENCE = 60.0
BASKETS = Path(__file__).parents[3] / "examples" / "data" / "baskets.jsonl"


class SplitProcesses:
    """One system on one folder. Leave with `close`, which kills whatever is left of it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.data = folder / "var"
        self.log = folder / "up.log"
        self.options = options
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.seen = set[int]()

    def start(self) -> None:
        """Return once it is ready."""
        with self.log.open("ab") as log:
            self.process = process = subprocess.Popen(
                [*self._program, "up", "--split", "--port", "0", "--json", "--data", str(self.data), *self.options],
                cwd=self.folder, stdout=subprocess.PIPE, stderr=log, env=self._environment,
            )  # fmt: skip
        assert process.stdout is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if select.select([process.stdout], [], [], 0.2)[0]:
                line = process.stdout.readline()
                if not line:
                    break
                if b'"ready"' in line:
                    self.url = json.loads(line)["url"]
                    self.seen |= {process.pid, *self.children()}
                    return
        raise AssertionError(f"it did not become ready: {self.said()}")

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.seen |= set(self.children())
        self.process.send_signal(signal.SIGTERM)
        return self._wait()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self._wait()
        until(lambda: not self.left(), "every process of the system is gone")

    def left(self) -> list[int]:
        """Those of its processes that still run."""
        return [pid for pid in self.seen if alive(pid)]

    def children(self) -> list[int]:
        assert self.process is not None
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found]

    def pid_of(self, name: str) -> int:
        return json.loads((self.data / "processes" / f"{name}.json").read_bytes())["pid"]

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-6_000:]

    def events(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def begin_load(self, count: int, rate: str = "max", methods: str = "sim_ok") -> subprocess.Popen[str]:
        """Real baskets as orders; `verdict` waits for the end."""
        return subprocess.Popen(
            [*self._program, "load", "--url", self.url, "--data", str(self.data), "--baskets", str(BASKETS), "--json",
             "--count", str(count), "--rate", rate, "--methods", methods, "--connections", "4"],
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environment,
        )  # fmt: skip

    def verdict(self, load: subprocess.Popen[str]) -> dict[str, Any]:
        """What it came to; fails when an order was lost, doubled, or the books do not agree."""
        said, errors = load.communicate(timeout=PATIENCE + 60)
        assert load.returncode == 0, f"{said}{errors}{self.said()}"
        return json.loads(said.splitlines()[-1])

    def cli(self, *arguments: str) -> Any:
        """The answer of one of the operator's commands."""
        done = subprocess.run(
            [*self._program, *arguments, "--data", str(self.data), "--json"],
            cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE, check=False, env=self._environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _wait(self) -> int:
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    @property
    def _program(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "millstream")

    @property
    def _environment(self) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if not key.startswith(("MILLSTREAM_", "OTEL_"))}


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], Any], what: str, limit: float = PATIENCE) -> Any:
    """What the condition gives, once it holds."""
    end = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < end, f"it did not come true within {limit} s: {what}"
        time.sleep(0.05)
    return found
