"""Where the time of embedded_end_to_end goes.

    python bench/profile.py                      CPU time of the loop by what it works on, per event
    python bench/profile.py functions            cProfile of the loop's thread: its own overhead falls on small functions
    python bench/profile.py statements           SQL statements per event on each file
    python bench/profile.py --events 100000

Sections count thread CPU time between entering and leaving a part, less what parts inside it took. What is in none of
them is the producers themselves, tasks, futures and the event loop.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder: cProfile itself imports a module called `profile`

import apsw  # noqa: E402 - the path comes first
from millstream.delivery import batch, claims, consumer, inbox, lanes, outbox, relay  # noqa: E402
from millstream.sqlite.file import SqliteFile  # noqa: E402
from millstream.transports.log import transport  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from bench import embedded_end_to_end  # noqa: E402
from bench.embedded import run  # noqa: E402

SCRATCH = ROOT / "bench" / "scratch"
LARGEST = 45


class Sections:
    """CPU time by name. Sections may lie in each other: each counts only its own."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = defaultdict(int)
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        began = time.thread_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.thread_time() - began
            self.calls[name] += 1
            self.seconds[name] += took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    def around(self, owner: Any, name: str, title: str | Callable[..., str]) -> None:
        """Make a function a section."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.section(title if isinstance(title, str) else title(*args)):
                return function(*args, **kwargs)

        setattr(owner, name, timed)

    def around_body(self, owner: Any, name: str, title: str) -> None:
        """Make a coroutine function that never suspends a section."""
        function = getattr(owner, name)

        async def timed(*args: Any, **kwargs: Any) -> Any:
            with self.section(title):
                return await function(*args, **kwargs)

        setattr(owner, name, timed)


def by_section(folder: Path, events: int) -> None:
    """A table of sections."""
    sections = Sections()
    sections.around(SqliteFile, "_run_group", lambda file: f"{file.name}: the rest of its groups")
    sections.around(SqliteFile, "_settle", "answering after the commit")
    sections.around(outbox.Outbox, "add", "producer: encode and buffer the event")
    sections.around(consumer, "prepare", "consumer: decode the batch")
    sections.around(transport.LogTransport, "_fetch", "consumer: read the log")
    sections.around_body(relay.Relay, "_placed", "relay: sort by partition")
    sections.around_body(batch._Batch, "_handle", "consumer: handler")
    sections.around_body(inbox, "admit", "consumer: inbox")
    sections.around_body(claims, "advance", "consumer: claim")
    sections.around_body(lanes, "lanes_among", "consumer: lanes")
    found = run(embedded_end_to_end.run_once(folder, events))
    table = Table(box=None, header_style="bold")
    for column in ("part of the loop", "µs an event", "calls", "µs a call"):
        table.add_column(column, justify="left" if column.startswith("part") else "right")
    for name, seconds in sorted(sections.seconds.items(), key=lambda item: -item[1]):
        calls = sections.calls[name]
        table.add_row(name, f"{seconds / events * 1e6:.2f}", f"{calls}", f"{seconds / calls * 1e6:.1f}")
    rest = found["loop_us_per_event"] - sum(sections.seconds.values()) / events * 1e6
    table.add_row("everything else", f"{rest:.2f}", "", "")
    Console().print(table)
    _print_run(found)


def by_function(folder: Path, events: int) -> None:
    """cProfile, by own time."""
    import cProfile
    import pstats

    profile = cProfile.Profile()
    profile.enable()
    found = run(embedded_end_to_end.run_once(folder, events))
    profile.disable()
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(LARGEST)
    _print_run(found)


def by_statement(folder: Path, events: int) -> None:
    """How often each statement runs, for each event."""
    counted: dict[tuple[str, str], int] = defaultdict(int)
    connect = SqliteFile.connect

    def watched(file: SqliteFile, *args: Any, **kwargs: Any) -> apsw.Connection:
        connection = connect(file, *args, **kwargs)

        def count(_: object, sql: str, __: object) -> bool:
            counted[file.name, " ".join(sql.split())] += 1
            return True

        connection.exec_trace = count
        return connection

    SqliteFile.connect = watched  # pyright: ignore[reportAttributeAccessIssue] - put in its place for this run
    found = run(embedded_end_to_end.run_once(folder, events))
    table = Table(box=None, header_style="bold")
    for column in ("an event", "file"):
        table.add_column(column, min_width=8)
    table.add_column("statement", overflow="ellipsis", no_wrap=True)
    for (file, sql), count in sorted(counted.items(), key=lambda item: -item[1])[:LARGEST]:
        table.add_row(f"{count / events:.4f}", file, sql)
    Console(width=150).print(table)
    _print_run(found)


def _print_run(found: dict[str, Any]) -> None:
    shown = ", ".join(f"{name} {round(value, 1)}" for name, value in found.items() if isinstance(value, float))
    print(f"{shown}; commits {found['commits']}")


def main(arguments: list[str]) -> int:
    """Profile one run."""
    ways = {"sections": by_section, "functions": by_function, "statements": by_statement}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("by", nargs="?", choices=ways, default="sections")
    parser.add_argument("--events", type=int, default=50_000)
    options = parser.parse_args(arguments)
    SCRATCH.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="profile-", dir=SCRATCH) as folder:
        ways[options.by](Path(folder), options.events)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
