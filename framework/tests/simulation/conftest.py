"""The simulated engines are judged by the conformance suites: on an ordinary loop, and on the one they are made for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from millstream.testing.conformance.plugin import ConformancePlugin
from millstream.testing.simulation.loop import SimulationLoop


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin("millstream-conformance"):  # a run of all suites has it
        config.pluginmanager.register(ConformancePlugin(results=None), "millstream-conformance")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"ordinary": asyncio.new_event_loop, "simulated": lambda: SimulationLoop(1)}
