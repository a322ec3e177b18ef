"""What a run prints and keeps: a table for a terminal or in Markdown, and a file of everything that was measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .goals import goals
from .phases import Measured, Sizes
from .row import Row

__all__ = ["COLUMNS", "cells", "markdown", "print_line", "print_table", "save"]

RESULTS = Path(__file__).resolve().parents[1] / "results"
Pair = tuple[Row, Measured]

COLUMNS = (
    "row", "promise", "order", "repeats", "produce", "relay", "consume", "end to end", "p50 / p99 ms", "CPU ms", "engines", "MB",
    "lost / doubled / out of order", "back after s",
)  # fmt: skip
WORDS = 4
"""Columns of text: the rest are numbers."""
LEGEND = (
    "produce, relay, consume, end to end: events per second. p50 / p99: from the commit of the business row to the commit of its "
    "effect, at 100 events per second. CPU ms: processor time of producer, relay and worker per 1,000 events end to end; engines: that "
    "of the servers. MB: relay and worker. lost / doubled / out of order: effects, of so many events, when the worker was killed "
    "three times in the middle of a backlog; back after: the longest time without an effect after a kill. order, repeats: what is "
    "promised by design for the events of a key and for an event that is delivered twice. tx: the event is in the "
    "business row's transaction; dual: published after it, so a crash of the producer in between loses it, which is not in these figures."
)


def cells(row: Row, found: Measured) -> list[str]:
    """The line of a row, as text."""
    kills = (
        ""
        if found.lost is None
        else f"{found.lost:,} / {found.doubled:,} / {found.disordered:,} of {found.kill_events:,}"
    )
    latency = "" if found.p50_ms is None else f"{found.p50_ms:.1f} / {found.p99_ms:.1f}"
    return [
        row.shown, row.guarantee, "kept" if row.order else "not kept", "dropped" if row.once else "take effect", _number(found.produce), _number(found.relay),
        _number(found.consume), _number(found.end_to_end), latency, _number(found.cpu_ms), _number(found.engines_cpu_ms),
        _number(found.memory_mb), kills, "" if found.recovery_s is None else f"{found.recovery_s:.1f}",
    ]  # fmt: skip


def print_table(pairs: Sequence[Pair], seconds: float) -> None:
    """For a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number < WORDS else "right")
    for row, found in pairs:
        table.add_row(*cells(row, found))
    # Wide enough for the whole table also where the output goes into a file.
    console = Console() if Console().is_terminal else Console(width=220)
    console.print(table)
    console.print(LEGEND, style="dim")
    for row, found in pairs:
        for reason in found.failed:
            console.print(f"[bold red]{row.name} failed[/] {escape(reason)}", highlight=False)
    failed = sum(bool(found.failed) for _, found in pairs)
    console.print(f"{len(pairs)} rows in {seconds:.0f} s, {failed or 'none'} failed")


def print_line(row: Row, found: Measured) -> None:
    """One object on one line, without the single measurements."""
    print(json.dumps(_plain(row, found) | {"details": None}), flush=True)


def markdown(pairs: Sequence[Pair], versions: dict[str, str], durability: dict[str, str]) -> str:
    """The same with the settings of every row, to paste into a document."""
    lines = [_line(COLUMNS), _line(["---"] * WORDS + ["--:"] * (len(COLUMNS) - WORDS))]
    lines += [_line(cells(row, found)) for row, found in pairs]
    lines += ["", LEGEND, ""]
    lines += [f"- **{row.shown} failed**: {reason.splitlines()[0]}" for row, found in pairs for reason in found.failed]
    lines += ["", _line(("row", "settings")), _line(("---", "---"))]
    lines += [_line((row.shown, row.settings)) for row, _ in pairs]
    used = {engine for row, _ in pairs for engine in row.engines}
    lines += ["", "Engines: " + "; ".join(f"{name} {text}" for name, text in durability.items() if name in used) + "."]
    lines += ["Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."]
    return "\n".join(lines)


def save(pairs: Sequence[Pair], machine: dict[str, Any], versions: dict[str, str], sizes: Sizes) -> Path:
    """Everything, under its date and commit."""
    RESULTS.mkdir(exist_ok=True)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    path = RESULTS / f"peers-{day}-{machine['commit'][:9] or 'unknown'}.json"
    content = {
        "machine": machine,
        "versions": versions,
        "sizes": dataclasses.asdict(sizes),
        "rows": [_plain(row, found) for row, found in pairs],
        "goals": [figure.line() for figure in goals(pairs)],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _plain(row: Row, found: Measured) -> dict[str, Any]:
    return {
        "name": row.name, "shown": row.shown, "promise": row.guarantee, "order_kept": row.order, "once": row.once,
        "engines": row.engines, "settings": row.settings, **dataclasses.asdict(found),
    }  # fmt: skip


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(parts) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
