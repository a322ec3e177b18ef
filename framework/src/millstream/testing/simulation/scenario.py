"""A scenario: what is built, what is done with it, what must hold in the end; and how one run of it is played.

```python
class OrdersUnderFire(Scenario):
    name = "orders-under-fire"
    about = "orders keep their sequence, whatever dies"

    def build(self, sim):
        sim.node("orders", orders())

    async def work(self, sim): ...
    async def check(self, sim): ...


outcome = play(OrdersUnderFire(), seed=7)
assert not outcome.violations
```
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import ClassVar

import msgspec

from ..removals.removal import INTACT, Removal
from .errors import Deadlock, Stuck
from .loop import Order
from .nemesis import STRIKES, Nemesis, keep
from .network import Faults
from .simulation import Simulation

__all__ = ["Crash", "Outcome", "Scenario", "play"]

ORDERS: tuple[Order, ...] = ("any", "fifo")


class Scenario:
    """Override the three methods. `strikes`, `most_strikes` and `faults` say what the run is up against."""

    name: ClassVar[str]
    about: ClassVar[str]
    strikes: ClassVar[tuple[str, ...]] = STRIKES
    most_strikes: ClassVar[int] = 5
    pause: ClassVar[float] = 3.0
    """Seconds between two strikes, at most."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Names of the nodes that are struck; none: all."""
    tend_seconds: ClassVar[float] = 1.5
    """How often operators look."""
    faults: ClassVar[Faults] = Faults(
        lost_request=0.01, lost_answer=0.02, late_request=0.005, repeated=0.01, partial=0.03, lost_statement=0.001
    )

    def build(self, sim: Simulation) -> None:
        """Make the nodes; they are started afterwards."""
        raise NotImplementedError

    async def work(self, sim: Simulation) -> None:
        """What clients do, while the nemesis strikes. Faults end when it returns."""
        raise NotImplementedError

    async def tend(self, sim: Simulation) -> bool:
        """What operators do now and then, under strikes and afterwards. True if there was anything to do."""
        return False

    async def check(self, sim: Simulation) -> None:
        """At rest after the heal: tell `sim.violated` of everything that is wrong."""
        raise NotImplementedError


class Crash(msgspec.Struct, frozen=True):
    """Kill this node instead of taking this step."""

    step: int
    node: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of one run. `owners`: whose each step was, if it was asked for."""

    scenario: str
    seed: int
    digest: str
    steps: int
    seconds: float
    kills: int
    strikes: int
    faults: int
    disturbances: int
    violations: list[str]
    owners: list[str] = []


def play(
    scenario: Scenario,
    seed: int,
    *,
    removal: Removal = INTACT,
    calm: bool = False,
    crashes: tuple[Crash, ...] = (),
    keep: frozenset[int] | None = None,
    story: Callable[[str], object] | None = None,
    owners: bool = False,
) -> Outcome:
    """One run. keep: the numbers of the disturbances that happen; None: all. calm: without nemesis and faults; crashes are then the only thing that goes wrong."""
    with TemporaryDirectory(prefix="millstream-sim-", dir=_memory()) as folder:
        sim = Simulation(
            seed,
            Path(folder),
            order=Random(f"{seed}/order").choice(ORDERS),
            removal=removal,
            faults=Faults() if calm else scenario.faults,
            keep=keep,
            story=story,
        )
        nemesis = Nemesis(sim, scenario.strikes, 0 if calm else scenario.most_strikes, scenario.pause, scenario.targets)
        if owners:
            sim.loop.visits = []
        for crash in crashes:
            sim.loop.at_step(crash.step, lambda name=crash.node: sim.nodes[name].kill())
        try:
            sim.loop.run(lambda: _phases(scenario, sim, nemesis))
        except (Deadlock, Stuck) as error:
            sim.violated(f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - of the scenario's own code: a finding with its seed, too
            sim.violated(f"the scenario failed: {error!r}")
        for words in sim.loop.unhandled:
            sim.violated(f"an error that nobody handled: {words}")
        for database in sim.databases.values():
            database.close()
        if sim.power is not None:
            sim.power.unregister()
        visits = sim.loop.visits
        return Outcome(
            scenario=scenario.name,
            seed=seed,
            digest=sim.loop.digest,
            steps=sim.loop.steps,
            seconds=sim.loop.time(),
            kills=sim.kills,
            strikes=nemesis.struck,
            faults=sim.network.injected,
            disturbances=sim.disturbances.number,
            violations=sim.violations,
            owners=[process.name for process in visits] if visits is not None else [],
        )


async def _phases(scenario: Scenario, sim: Simulation, nemesis: Nemesis) -> None:
    await sim.engine.__aenter__()
    scenario.build(sim)
    for node in sim.nodes.values():
        node.start()
    tending = sim.loop.create_task(_tend(scenario, sim), name="operator")
    keeper = sim.loop.create_task(keep(sim), name="keeper")
    striking = sim.loop.create_task(nemesis.run(), name="nemesis")
    await scenario.work(sim)
    await striking
    keeper.cancel()
    tending.cancel()
    await sim.heal()
    if await sim.settle(lambda: scenario.tend(sim)):
        await scenario.check(sim)


async def _tend(scenario: Scenario, sim: Simulation) -> None:
    while True:
        await asyncio.sleep(scenario.tend_seconds)
        await scenario.tend(sim)


def _memory() -> str | None:
    """Where files cost no disk, if the machine has such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder of its own is made in it
