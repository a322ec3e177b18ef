"""Where this repository keeps the suites' results: docs/capabilities.md is generated from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream.testing.conformance.plugin import ConformancePlugin


def pytest_configure(config: pytest.Config) -> None:
    results = Path(__file__).parent / "results"
    config.pluginmanager.register(ConformancePlugin(results), "millstream-conformance")
