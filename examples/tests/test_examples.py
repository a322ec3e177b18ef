"""Each example is a program: it runs, and prints what stands beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1]
ROOT = EXAMPLES.parent
PROGRAMS = sorted(EXAMPLES.glob("[0-9][0-9]_*.py"))
LINES_LIMIT = 80


def test_there_are_eleven() -> None:
    assert [program.name[:2] for program in PROGRAMS] == [f"{number:02}" for number in range(1, 12)]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_an_example_prints_exactly_what_stands_beside_it(program: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MILLSTREAM_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program.relative_to(ROOT))],
        cwd=ROOT,
        env={**environment, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == program.with_suffix(".out").read_text(encoding="utf-8")
    assert done.returncode == 0


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_an_example_is_short_and_says_how_to_run_it(program: Path) -> None:
    text = program.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES_LIMIT
    assert re.search(rf"^Run it: \.venv/bin/python (-m pytest )?examples/{program.name}$", text, re.MULTILINE)
