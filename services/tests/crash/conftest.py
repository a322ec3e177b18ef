"""The modules of this suite (`running`, `customers`, `awkward`) lie beside it; `awkward` is also what `up` imports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import Up


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A system on a folder of its own, not started yet; whatever runs in the end is killed."""
    system = Up(tmp_path)
    yield system
    system.clean_up()
