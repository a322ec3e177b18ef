"""up_ready_s and up_memory_mb: how long `millstream up` takes to its first reply, and how much memory it then holds.

The time runs from the start of the process, interpreter and imports included, on a new data folder, until `/ready` says
yes. Memory is resident memory after five idle seconds. Files are warm: what a disk adds after a reboot is not in it.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from .figures import Figure, Goal
from .system import running_system

__all__ = ["measure"]

STARTS = 5
IDLE_SECONDS = 5.0


def measure(folder: Path) -> list[Figure]:
    """The median of several starts; the memory of the last one."""
    ready: list[float] = []
    memory: dict[str, float] = {}
    for number in range(STARTS + 1):
        began = time.perf_counter()
        with running_system(folder / f"var{number}") as system:
            assert system.get("/ready") == 200
            ready.append(time.perf_counter() - began)
            if number == STARTS:
                memory["ready"] = system.memory_mb()
                time.sleep(IDLE_SECONDS)
                memory["idle"] = system.memory_mb()
    cold, *warm = ready  # the first one may compile and read from the disk
    return [
        Figure("up_ready_s", median(warm), "s", None, Goal(at_most=2.0), {"first": cold, "others": warm}),
        Figure("up_memory_mb", max(memory.values()), "MB", None, Goal(at_most=150.0), memory),
    ]
