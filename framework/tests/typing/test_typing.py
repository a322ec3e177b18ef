"""Pyright knows the types that users write: handlers, events, what a handler returns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SAMPLE = Path(__file__).with_name("handlers.py")


def pyright(file: Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", "pyright", str(file)], capture_output=True, text=True, check=False
    ).stdout


def test_the_sample_has_exactly_the_errors_that_it_names() -> None:
    assert "0 errors" in pyright(SAMPLE)


def test_without_the_ignores_each_wrong_handler_is_found(tmp_path: Path) -> None:
    wrong = SAMPLE.read_text().count("# pyright: ignore[")
    bare = tmp_path / "bare.py"
    bare.write_text("\n".join(line.split("  # pyright: ignore[")[0] for line in SAMPLE.read_text().splitlines()))
    lines = {line.split(":")[1] for line in pyright(bare).splitlines() if " - error: " in line}
    assert len(lines) == wrong
