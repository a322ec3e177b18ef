"""The built-in scenarios by name."""

from __future__ import annotations

from ...errors import Misconfigured
from .scenario import Scenario
from .scenarios.event_path import EventPath, FailingDisk, HotKey, Killed

__all__ = ["SCENARIOS", "scenario_named"]

SCENARIOS: dict[str, type[Scenario]] = {
    scenario.name: scenario for scenario in (EventPath, HotKey, Killed, FailingDisk)
}


def scenario_named(name: str) -> type[Scenario]:
    """A scenario.

    Raises:
        Misconfigured: there is none of this name; lists those there are.
    """
    found = SCENARIOS.get(name)
    if found is None:
        raise Misconfigured(f"there is no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    return found
