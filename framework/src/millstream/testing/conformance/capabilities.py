"""Skipping by declaration: the only reason a conformance test may be skipped for is a capability."""

from __future__ import annotations

from typing import NoReturn

import pytest

from ...ports.store import StoreCapabilities
from ...ports.transport import TransportCapabilities

__all__ = ["DECLARED", "Capabilities", "not_offered", "requires"]

Capabilities = TransportCapabilities | StoreCapabilities

DECLARED = "declared: "
"""How the reason of every allowed skip begins."""


def requires(capabilities: Capabilities, name: str, value: object = True) -> None:
    """Skip the running test unless the adapter declares `name` to be `value`."""
    declared = getattr(capabilities, name)
    if declared != value:
        pytest.skip(f"{DECLARED}{name}={str(declared).lower()}")


def not_offered(name: str) -> NoReturn:
    """Skip the running test: the adapter's test class does not offer `name`, a way to make its engine fail."""
    pytest.skip(f"{DECLARED}no {name}")
