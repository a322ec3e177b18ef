"""What commands print: one line of JSON, or tables for people. Results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Protocol

import msgspec

__all__ = ["Progress", "age", "hint", "moment", "print_json", "progress", "table", "write"]


def print_json(value: object) -> None:
    """One line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def write(text: str) -> None:
    """A line of result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def hint(text: str) -> None:
    """A line for the person at the terminal, not part of the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; columns whose name ends in `#` are numbers. In a pipe it keeps its full width."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        shown.add_column(column.removesuffix("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 220).print(shown)


def age(since_us: int | None, now_us: int | None = None) -> str:
    """How long ago, or how long until: `3s`, `5m`, `2h`, `4d`."""
    if since_us is None:
        return ""
    now = time.time_ns() // 1000 if now_us is None else now_us
    seconds = abs(now - since_us) / 1e6
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def moment(us: int | None) -> str:
    """A moment in UTC, to the second."""
    return "" if us is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(us / 1e6))


class Progress(Protocol):
    """A bar under way."""

    def advance(self, steps: int = 1) -> None:
        """Move on."""
        ...

    def note(self, text: str) -> None:
        """Say what goes on now."""
        ...


@contextmanager
def progress(title: str, total: int | None) -> Generator[Progress]:
    """A progress bar on stderr, or nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield _Quiet()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True), refresh_per_second=4) as bars:
        yield _Bar(bars, bars.add_task(title, total=total, note=""))


class _Quiet:
    def advance(self, steps: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


class _Bar:
    def __init__(self, bars: object, task: int) -> None:
        from rich.progress import Progress as Bars
        from rich.progress import TaskID

        assert isinstance(bars, Bars)
        self._bars = bars
        self._task = TaskID(task)

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._task, steps)

    def note(self, text: str) -> None:
        self._bars.update(self._task, note=text)
