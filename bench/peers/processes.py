"""Programs under measurement: started with their log in a file, killed as a group, their processor time and memory read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .workload import Produced

__all__ = ["Failed", "Program", "cpu_seconds", "memory_bytes"]

ROOT = Path(__file__).resolve().parents[2]
_TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A program did not do what was asked of it; says what it printed last."""


class Program:
    """One started program with all of its processes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if "produce" in command or "fill" in command else output,
                stderr=output,
                start_new_session=True,  # what it forks is killed with it
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises: Failed: it has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise Failed(f"{self._shown} ended with {code}: {self._tail()}")

    def produced(self, seconds: float) -> Produced:
        """Wait for a producer's report.

        Raises:
            Failed: it ended with an error, or took longer than `seconds`.
        """
        try:
            output, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self._shown} was stopped after {seconds:.0f} s: {self._tail()}") from None
        if self._process.returncode != 0:
            raise Failed(f"{self._shown} ended with {self._process.returncode}: {self._tail()}")
        return Produced(**json.loads(output.decode().splitlines()[-1]))

    def finish(self, seconds: float) -> None:
        """Wait until it has ended well. Raises: Failed."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self._shown} was stopped after {seconds:.0f} s: {self._tail()}") from None
        if code != 0:
            raise Failed(f"{self._shown} ended with {code}: {self._tail()}")

    def kill(self) -> int:
        """SIGKILL to all of its processes; returns when, in microseconds of the wall clock."""
        now = time.time_ns() // 1000
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return now

    @property
    def _shown(self) -> str:
        return " ".join(Path(part).name if "/" in part else part for part in self._command[:5])

    def _tail(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(line[:300] for line in lines[-6:])


def cpu_seconds(*roots: int) -> float:
    """Processor time so far of these processes, of their children, and of those children that have ended."""
    return sum(sum(map(int, _stat(pid)[11:15])) for root in roots for pid in _tree(root)) / _TICK


def memory_bytes(*roots: int) -> int:
    """What these processes and their children use now; pages that several share count in parts."""
    total = 0
    for root in roots:
        for pid in _tree(root):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            except OSError:
                continue
            total += next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return total


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        try:
            threads = list(Path(f"/proc/{pid}/task").iterdir())
            for thread in threads:
                found.extend(map(int, (thread / "children").read_text(encoding="ascii").split()))
        except OSError:
            continue
    return found


def _stat(pid: int) -> list[str]:
    """The fields behind the name: `state` is the first."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ["0"] * 20
