"""Runs the benchmarks one after another, each in a process of its own with a time limit, and prints what they reached.

    python bench/run.py                          all of them, as a table; raw results go to bench/results/
    python bench/run.py --json                   one object a line: name, value, unit, ceiling, ratio, goal, met
    python bench/run.py --only embedded_end_to_end --only up_start
    python bench/run.py --baskets FILE           real baskets for the orders benchmarks

A name of --only is that of a figure or of a program. Results of a part are printed and not kept. Exit code 0 also when a
goal is missed (the table says so), 1 when a program failed, 2 when no program has such a name.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
# As a script this file's own folder stands first, where `profile.py` would hide the module of that name.
sys.path[0] = str(ROOT)

from bench.figures import Figure  # noqa: E402 - the path comes first
from bench.machine import conditions, describe  # noqa: E402
from bench.report import print_line, print_table, save  # noqa: E402

SCRATCH = ROOT / "bench" / "scratch"


@dataclass(frozen=True)
class Program:
    """A benchmark: its module, the figures it gives, and how long it may take at most."""

    module: str
    figures: tuple[str, ...]
    limit_seconds: int
    takes_baskets: bool = False


PROGRAMS = (
    Program("embedded_end_to_end", ("embedded_end_to_end",), 120),
    Program("embedded_idle_latency", ("embedded_idle_latency_p50", "embedded_idle_latency_p99"), 60),
    Program("orders_accept", ("orders_accept", "orders_accept_p99"), 120, takes_baskets=True),
    Program("orders_whole_path", ("orders_whole_path",), 180, takes_baskets=True),
    Program("up_start", ("up_ready_s", "up_memory_mb"), 60),
    Program("million_parked", ("million_parked_memory_mb",), 180),
    Program("ten_million_rows", ("ten_million_rows",), 240),
)


def main(arguments: list[str]) -> int:
    """Run the chosen programs; the exit code."""
    options = _parse(arguments)
    if options.inside:
        return _inside(*options.inside, baskets=options.baskets)
    chosen = [p for p in PROGRAMS if not options.only or {p.module, *p.figures} & set(options.only)]
    known = {name for program in PROGRAMS for name in (program.module, *program.figures)}
    unknown = [name for name in options.only if name not in known]
    if unknown:
        print(
            f"no figure or program is called {', '.join(unknown)}; there are {', '.join(sorted(known))}",
            file=sys.stderr,
        )
        return 2
    SCRATCH.mkdir(exist_ok=True)
    machine, began = describe(SCRATCH), time.monotonic()
    figures: list[Figure] = []
    programs: dict[str, Any] = {}
    failed = 0
    with Console(stderr=True).status("") as status:
        for program in chosen:
            status.update(f"{program.module}, at most {program.limit_seconds} s")
            started, before = time.monotonic(), conditions(SCRATCH)
            try:
                found = _run(program, options.baskets)
            except RuntimeError as error:
                print(f"{program.module} FAILED: {error}", file=sys.stderr, flush=True)
                failed += 1
                continue
            wanted = [f for f in found if not options.only or {program.module, f.name} & set(options.only)]
            figures += wanted
            programs[program.module] = {"seconds": round(time.monotonic() - started, 1), "before": before}
            if options.json:
                for figure in wanted:
                    print_line(figure)
    if not options.json:
        print_table(figures, time.monotonic() - began)
    if not options.only and not failed:
        kept = save(figures, machine, programs)
        print(f"raw results: {kept.relative_to(ROOT)}", file=sys.stderr)
    return 1 if failed else 0


def _run(program: Program, baskets: Path | None) -> list[Figure]:
    """Run one program in a process and a folder of its own; both are gone afterwards, whatever happened.

    Raises:
        RuntimeError: it failed or took too long; says what it wrote.
    """
    folder = Path(mkdtemp(prefix=f"{program.module}-", dir=SCRATCH))
    command = [sys.executable, str(Path(__file__).resolve()), "--inside", program.module, str(folder)]
    if baskets is not None and program.takes_baskets:
        command += ["--baskets", str(baskets.resolve())]
    log = folder / "log"
    try:
        with log.open("w") as output:
            # A group of its own: what the program starts ends with it.
            child = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            code = child.wait(program.limit_seconds)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"stopped after {program.limit_seconds} s: {log.read_text()[-2000:]}") from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if code != 0:
            raise RuntimeError(f"exit code {code}: {log.read_text()[-4000:]}")
        return msgspec.json.decode((folder / "figures.json").read_bytes(), type=list[Figure])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _inside(module: str, folder: str, baskets: Path | None) -> int:
    """The child's side: measure, and leave the figures in the folder."""
    place = Path(folder)
    options = {} if baskets is None else {"baskets": baskets}
    data = place / "data"
    data.mkdir()
    found = importlib.import_module(f"bench.{module}").measure(data, **options)
    (place / "figures.json").write_bytes(msgspec.json.encode(found))
    return 0


def _parse(arguments: list[str]) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this figure or program")
    parser.add_argument("--baskets", type=Path, help="file of baskets, one JSON object a line")
    parser.add_argument("--inside", nargs=2, metavar=("PROGRAM", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
