"""Measures Millstream beside its peers and bare clients, and prints a table: who promises what, and what it costs.

    make bench-peers                                     everybody; raw results go to bench/results/peers-<date>-<commit>.json
    make bench-peers ARGS="millstream-nats pgqueuer"     these rows or groups; printed, not kept
    make bench-peers ARGS="--markdown"                   as Markdown, with every row's settings
    make bench-peers ARGS="--tiny watermill"             a few events each: proves that the programs work, measures nothing
    make bench-peers ARGS="--seconds 10 --events 200000" longer phases
    make bench-peers ARGS="--json bare"                  one object a line
    make bench-peers ARGS="--list"                       the rows there are

Everybody does the same work on the same engines at the same durability: see README.md beside this file. After `--limit` seconds
no further row is begun; those left out say so. Exit code 0 also when a peer failed (the table says why), 1 when one of
Millstream's rows failed, 2 when no row has such a name.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console

from ..machine import conditions, describe
from ..report import print_table as print_goals
from .catalogue import PYTHON, ROWS, WATERMILL, chosen
from .goals import goals
from .phases import TINY, Measured, Sizes, measure
from .processes import ROOT
from .report import markdown, print_line, print_table, save
from .row import Row
from .servers import DURABILITY, engines_in

SCRATCH = ROOT / "bench" / "scratch"
BUILD_SECONDS = 600
LIMIT_SECONDS = 1_110.0
"""A row that begins at the last moment may take another minute and a half: in all less than 20 minutes."""
PACKAGES = (
    "asyncpg", "celery", "dbos", "dramatiq", "faststream", "nats-py", "pgqueuer", "procrastinate", "psycopg", "taskiq",
    "taskiq-nats", "taskiq-redis", "aiokafka", "aio-pika", "redis",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measure the chosen rows; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="PEER")
    parser.add_argument("--markdown", action="store_true", help="the table with every row's settings, as Markdown")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--tiny", action="store_true", help="a few events of each")
    parser.add_argument("--seconds", type=float, help="how long each producer writes")
    parser.add_argument("--events", type=int, help="how many events each producer writes at most")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_SECONDS, help="after so many seconds no further row is begun"
    )
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: servers must not outlive the run
    SCRATCH.mkdir(exist_ok=True)
    folder = Path(mkdtemp(prefix="peers-", dir=SCRATCH))
    sizes = (TINY if options.tiny else Sizes()).scaled(options.seconds, options.events)
    machine, began = describe(SCRATCH), time.monotonic()
    machine["before"] = conditions(SCRATCH)
    pairs: list[tuple[Row, Measured]] = []
    interrupted = False
    try:
        with closing(_measure_all(rows, sizes, folder, began + options.limit)) as measuring:
            for pair in measuring:
                pairs.append(pair)
                if options.json:
                    print_line(*pair)
    except KeyboardInterrupt:
        interrupted = True  # what was measured until then is worth printing
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # not twice
        shutil.rmtree(folder, ignore_errors=True)
    machine["after"] = conditions(SCRATCH)
    versions = _versions()
    if options.json:
        pass  # printed while they came
    elif options.markdown:
        print(markdown(pairs, versions, DURABILITY))
    else:
        seconds = time.monotonic() - began
        print_table(pairs, seconds)
        if reached := goals(pairs):
            print()
            print_goals(reached, seconds)
    if (not options.rows or options.keep) and not options.tiny and not interrupted:
        print(f"raw results: {save(pairs, machine, versions, sizes).relative_to(ROOT)}", file=sys.stderr)
    if interrupted:
        return 130
    return int(any(found.failed for row, found in pairs if row.group == "millstream"))


def _measure_all(rows: list[Row], sizes: Sizes, folder: Path, until: float) -> Generator[tuple[Row, Measured]]:
    console = Console(stderr=True)
    with console.status("building") as status, engines_in(folder) as engines:
        not_built = _build_watermill() if any(row.group == "watermill" for row in rows) else ""
        for number, row in enumerate(rows, 1):
            status.update(f"{number} of {len(rows)}: {row.shown}")
            if time.monotonic() > until:
                found = Measured(failed=[f'left out, time was over: make bench-peers ARGS="{row.name}"'])
            elif row.group == "watermill" and not_built:
                found = Measured(failed=[not_built])
            elif row.missing:
                found = Measured(failed=[row.missing])
            elif reasons := engines.ready(row.engines):
                found = Measured(failed=reasons)
            else:
                found = measure(row, sizes, engines, folder)
            words = "; ".join(reason.splitlines()[0] for reason in found.failed)
            console.print(
                f"{row.name:<28}{found.seconds:6.1f} s  {words and 'FAILED: ' + words}", highlight=False, soft_wrap=True
            )
            yield row, found


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
