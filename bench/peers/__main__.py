"""Measures Millstream beside its peers and bare clients, and prints a table: who promises what, and what it costs.

    make bench-peers                                     everybody; raw results go to bench/results/peers-<date>-<commit>.json
    make bench-peers ARGS="millstream-nats pgqueuer"     these rows or groups; printed, not kept
    make bench-peers ARGS="--markdown"                   as Markdown, with every row's settings
    make bench-peers ARGS="--tiny watermill"             a few events each: proves that the programs work, measures nothing
    make bench-peers ARGS="--list"                       the rows there are

Everybody does the same work on the same engines at the same durability: see README.md beside this file. Exit code 0 also when a
peer failed (the table says why), 1 when one of Millstream's rows failed, 2 when no row has such a name.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console

from ..machine import conditions, describe
from .catalogue import PYTHON, ROWS, WATERMILL, chosen
from .phases import TINY, Measured, Sizes, measure
from .processes import ROOT
from .report import markdown, print_table, save
from .row import Row
from .servers import DURABILITY, Engines, start

SCRATCH = ROOT / "bench" / "scratch"
BUILD_SECONDS = 600
PACKAGES = (
    "asyncpg", "celery", "dbos", "dramatiq", "faststream", "nats-py", "pgqueuer", "procrastinate", "psycopg", "taskiq",
    "taskiq-nats", "taskiq-redis", "aiokafka", "aio-pika", "redis",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measure the chosen rows; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="PEER")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a few events of each")
    parser.add_argument("--keep", action="store_true", help="keep the results of a part, too")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    rows, unknown = chosen(options.rows)
    if unknown:
        known = sorted({name for row in ROWS for name in (row.name, row.group)})
        print(f"no row is called {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    if options.list:
        for row in rows:
            print(f"{row.name:<28}{row.guarantee:<6}{row.settings}")
        return 0
    SCRATCH.mkdir(exist_ok=True)
    folder = Path(mkdtemp(prefix="peers-", dir=SCRATCH))
    machine, sizes, began = describe(SCRATCH), TINY if options.tiny else Sizes(), time.monotonic()
    machine["before"] = conditions(SCRATCH)
    try:
        pairs = _measure_all(rows, sizes, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    machine["after"] = conditions(SCRATCH)
    versions = _versions()
    if options.markdown:
        print(markdown(pairs, versions, DURABILITY))
    else:
        print_table(pairs, time.monotonic() - began)
    if (not options.rows or options.keep) and not options.tiny:
        print(f"raw results: {save(pairs, machine, versions, sizes).relative_to(ROOT)}", file=sys.stderr)
    return int(any(found.failed for row, found in pairs if row.group == "millstream"))


def _measure_all(rows: list[Row], sizes: Sizes, folder: Path) -> list[tuple[Row, Measured]]:
    pairs: list[tuple[Row, Measured]] = []
    needed = sorted({engine for row in rows for engine in row.engines})
    console = Console(stderr=True)
    with console.status("starting " + ", ".join(needed)) as status:
        not_built = _build_watermill() if any(row.group == "watermill" for row in rows) else ""
        with start(needed, folder) as engines:
            for number, row in enumerate(rows, 1):
                status.update(f"{number} of {len(rows)}: {row.shown}")
                found = _measure(row, sizes, engines, folder, not_built)
                pairs.append((row, found))
                words = "; ".join(reason.splitlines()[0] for reason in found.failed)
                console.print(
                    f"{row.name:<28}{found.seconds:6.1f} s  {words and 'FAILED: ' + words}",
                    highlight=False,
                    soft_wrap=True,
                )
    return pairs


def _measure(row: Row, sizes: Sizes, engines: Engines, folder: Path, not_built: str) -> Measured:
    reasons = [engines.failed[name] for name in row.engines if name in engines.failed]
    if row.group == "watermill" and not_built:
        reasons.append(not_built)
    if row.missing:
        reasons.append(row.missing)
    if reasons:
        return Measured(failed=reasons)
    pids = {name: engines.pids[name] for name in row.engines}
    return measure(row, sizes, engines.urls, pids, folder)


def _build_watermill() -> str:
    """Compile the Go program; what went wrong, or nothing."""
    if shutil.which("go") is None:
        return "go is not installed: https://go.dev/doc/install"
    command = ["go", "build", "-o", str(WATERMILL), "."]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).with_name("watermill"),
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"go build took longer than {BUILD_SECONDS} s"
    return "" if done.returncode == 0 else f"go build: {done.stderr[-1000:]}"


def _versions() -> dict[str, str]:
    """Of the peers, as their environment has them, and of Watermill's modules."""
    found: dict[str, str] = {}
    if PYTHON.exists():
        code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
        done = subprocess.run([str(PYTHON), "-c", code, *PACKAGES], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found |= json.loads(done.stdout)
    modules = Path(__file__).with_name("watermill") / "go.mod"
    for line in modules.read_text().splitlines() if modules.exists() else []:
        name, _, version = line.strip().partition(" ")
        if name.startswith("github.com/ThreeDotsLabs/"):
            found[name.removeprefix("github.com/ThreeDotsLabs/")] = version.split(" ")[0]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
