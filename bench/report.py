"""What a run prints and keeps: lines of JSON, a table, a file of raw results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .figures import Figure

__all__ = ["print_line", "print_table", "save"]

RESULTS = Path(__file__).parent / "results"


def print_line(figure: Figure) -> None:
    """One figure as one object."""
    print(json.dumps(figure.line()), flush=True)


def print_table(figures: Sequence[Figure], seconds: float) -> None:
    """All figures for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (
        ("figure", "left"),
        ("value", "right"),
        ("", "left"),
        ("ceiling", "right"),
        ("ratio", "right"),
    ):
        table.add_column(column, justify=justify)  # pyright: ignore[reportArgumentType] - rich's own words for it
    table.add_column("goal")
    table.add_column("met")
    for figure in figures:
        line = figure.line()
        met = "[green]yes[/]" if figure.met else "[bold red]no[/]"
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f}"
        table.add_row(
            figure.name, _shown(line["value"]), figure.unit, _shown(line["ceiling"]), ratio, line["goal"], met
        )
    console = Console()
    console.print(table)
    missed = sum(not figure.met for figure in figures)
    console.print(f"{len(figures)} figures in {seconds:.0f} s, {missed or 'none'} missed")


def save(figures: Sequence[Figure], machine: dict[str, Any], programs: dict[str, Any]) -> Path:
    """Everything that was measured, under its date and commit."""
    RESULTS.mkdir(exist_ok=True)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    path = RESULTS / f"{day}-{machine['commit'][:9] or 'unknown'}.json"
    content = {
        "machine": machine,
        "programs": programs,
        "figures": [{**figure.line(), "details": dataclasses.asdict(figure)["details"]} for figure in figures],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:g}"
