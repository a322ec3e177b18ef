"""The crash suite's own modules (`bank`, `life`, `invariants`, `stories`) lie beside it, and its table ends the run."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from millstream.testing.crash.campaign import Tally
from millstream.testing.crash.counts import count

TALLY = Tally()


@pytest.fixture(scope="session")
def tally() -> Tally:
    """The kills of the whole run."""
    # Workers share the parent's pages; a collection in one of them would copy them all.
    gc.collect()
    gc.freeze()
    return TALLY


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if TALLY.kills:
        count(process_kills=TALLY.total, lives=TALLY.lives)
        terminalreporter.section("kills by point")
        for line in TALLY.table():
            terminalreporter.write_line(line)
