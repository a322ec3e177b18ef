"""The pytest plugin: fixtures that come with `pip install millstream`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .harness import Harness

__all__ = ["millstream"]


@pytest.fixture
def millstream() -> Callable[..., Harness]:
    """Makes harnesses: `async with millstream(orders) as ms: …`. See `millstream.testing.harness.Harness`."""
    from .harness import Harness  # every test run loads this plugin, not every one needs the kernel

    return Harness
