"""The built-in scenarios by name."""

from __future__ import annotations

from ...errors import Misconfigured
from .scenario import Scenario
from .scenarios.dead_letters import KillingMessage, PoisonGoOn, PoisonHold, RedriveDuringFailure
from .scenarios.edges import HundredRequests, RefusedRecord, Shutdown, SlowConsumer
from .scenarios.event_path import EventPath, FailingDisk, HotKey, Killed, PowerLoss
from .scenarios.fleet import Fleet, Takeover, TwoRelays

__all__ = ["SCENARIOS", "scenario_named"]

_ALL: tuple[type[Scenario], ...] = (
    EventPath,
    HotKey,
    Killed,
    PowerLoss,
    FailingDisk,
    PoisonHold,
    PoisonGoOn,
    RedriveDuringFailure,
    KillingMessage,
    HundredRequests,
    RefusedRecord,
    SlowConsumer,
    Shutdown,
    Fleet,
    TwoRelays,
    Takeover,
)

SCENARIOS: dict[str, type[Scenario]] = {scenario.name: scenario for scenario in _ALL}


def scenario_named(name: str) -> type[Scenario]:
    """A scenario.

    Raises:
        Misconfigured: there is none of this name; lists those there are.
    """
    found = SCENARIOS.get(name)
    if found is None:
        raise Misconfigured(f"there is no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    return found
