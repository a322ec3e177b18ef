"""orders_whole_path: orders a second from the first request to the last notification, posted as fast as they are taken.

`millstream load` against a real `millstream up`: real baskets, paid by the simulated provider, booked, confirmed and
notified, everything read back and compared; a run that lost or doubled anything is no result but an error. The ceiling
writes all rows that such a run left in all files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from .baskets import BASKETS
from .figures import Figure, Goal
from .replay import replay_seconds
from .system import ROOT, running_system

__all__ = ["measure"]

CONNECTIONS = 32
LIMIT_SECONDS = 120


def measure(folder: Path, orders: int = 8_000, runs: int = 3, baskets: Path = BASKETS) -> list[Figure]:
    """The median of several runs."""
    found = [run_once(folder / str(number), orders, baskets) for number in range(runs)]
    rate, ceiling = (median(run[name] for run in found) for name in ("orders_per_s", "ceiling"))
    details = {"posted": orders, "connections": CONNECTIONS, "runs": found}
    return [Figure("orders_whole_path", rate, "orders/s", ceiling, Goal(at_least=1_000), details)]


def run_once(folder: Path, orders: int, baskets: Path) -> dict[str, Any]:
    """One run on a new folder.

    Raises:
        RuntimeError: the verdict was bad; says what the load client wrote.
    """
    folder.mkdir()
    data = folder / "var"
    with running_system(data) as system:
        command = [str(Path(sys.executable).parent / "millstream"), "load", "--url", system.url, "--data", str(data)]
        command += ["--baskets", str(baskets), "--count", str(orders), "--connections", str(CONNECTIONS)]
        command += ["--rate", "max", "--json"]
        cpu = system.cpu_seconds()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=LIMIT_SECONDS, check=False)
        cpu = system.cpu_seconds() - cpu
        if done.returncode != 0:
            raise RuntimeError(
                f"`millstream load` ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-2000:]}"
            )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        commits = system.commits()
        memory = system.memory_mb()
    verdict = lines[-1]
    bare = replay_seconds(data, commits, folder / "bare")
    return {
        "orders_per_s": next(line["whole_path_per_s"] for line in lines if "whole_path_per_s" in line),
        "server_cpu_us_per_order": cpu / verdict["accepted"] * 1e6,
        "memory_mb": memory,
        "commits": commits,
        "verdict": verdict,
        "ceiling": verdict["accepted"] / bare,
    }
