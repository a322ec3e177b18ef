"""Where and on what a result was measured: commit, time, processor, versions, load, and what the disk does."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import apsw

__all__ = ["conditions", "describe"]

ROOT = Path(__file__).parents[1]
PACKAGES = ("millstream", "apsw", "uvloop", "msgspec", "uvicorn", "httptools", "protobuf")
PROBES = 50
SPIN = 200_000


def describe(folder: Path) -> dict[str, Any]:
    """What stays the same during a run."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--untracked-files=no").splitlines()),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "scratch": folder.name,  # its place is nobody else's business
    }


def conditions(folder: Path) -> dict[str, Any]:
    """What changes from hour to hour: the load by others, the speed of the processor and of the disk."""
    return {"load": os.getloadavg(), "fsync_us": _fsync_us(folder), "spin_ns": _spin_ns()}


def _fsync_us(folder: Path) -> float:
    """The median of writing 4 kB and making it durable."""
    path = folder / "probe"
    taken: list[float] = []
    handle = os.open(path, os.O_CREAT | os.O_WRONLY)
    for number in range(PROBES):
        began = time.perf_counter()
        os.pwrite(handle, b"\0" * 4096, number * 4096)
        os.fdatasync(handle)
        taken.append(time.perf_counter() - began)
    os.close(handle)
    path.unlink()
    return round(median(taken) * 1e6, 1)


def _spin_ns() -> float:
    """CPU time of one turn of an empty loop of the interpreter: a measure of the processor's speed at this moment."""
    began = time.thread_time()
    for _ in range(SPIN):
        pass
    return round((time.thread_time() - began) / SPIN * 1e9, 2)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
