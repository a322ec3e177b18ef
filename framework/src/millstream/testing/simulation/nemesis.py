"""What strikes while a scenario works: kills, stops, pauses, partitions, outages, clocks that jump, disks that refuse.

It runs outside of all processes, draws from its own seed, and ends after a number of strikes: what is asked of the system
then is asked of it in peace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import final

from .node import Node
from .simulation import Simulation

__all__ = ["STRIKES", "Nemesis"]

KEEPER_SECONDS = 0.3
KILL_WITHIN_STEPS = 300
POWER_WITHIN_OPERATIONS = 60
STRIKES = ("kill", "stop", "pause", "cut", "outage", "clock", "disk")


@final
class Nemesis:
    """kinds: which of `STRIKES`. most: how many at most. pause: seconds between two, at most. targets: names of
    nodes; none: all."""

    def __init__(
        self,
        simulation: Simulation,
        kinds: tuple[str, ...] = STRIKES,
        most: int = 6,
        pause: float = 3.0,
        targets: tuple[str, ...] = (),
    ) -> None:
        self._sim = simulation
        self._kinds = kinds
        self._most = most
        self._pause = pause
        self._targets = targets
        self._random = Random(f"{simulation.seed}/nemesis")
        self.struck = 0
        """How many strikes there were."""

    async def run(self) -> None:
        """Strike until the number is reached."""
        strikes: dict[str, Callable[[Node], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "pause": self._pause_one,
            "cut": self._cut,
            "outage": self._outage,
            "clock": self._clock,
            "disk": self._disk,
            "power": self._power,
        }
        for _ in range(self._random.randrange(self._most + 1)):
            await self._wait(0.0, self._pause)
            kind = self._random.choice(self._kinds)
            node = self._sim.nodes[self._random.choice(self._targets or tuple(self._sim.nodes))]
            if self._sim.disturbances.happens(f"{kind} {node.name}"):
                self.struck += 1
                await strikes[kind](node)

    async def _wait(self, shortest: float, longest: float) -> None:
        await asyncio.sleep(self._random.uniform(shortest, longest))

    async def _kill(self, node: Node) -> None:
        # At a step and not at a moment: steps crowd where something happens, and most moments are idle.
        step = self._sim.loop.steps + 1 + self._random.randrange(KILL_WITHIN_STEPS)
        self._sim.loop.at_step(step, lambda: None if self._sim.healed else node.kill())

    async def _stop(self, node: Node) -> None:
        node.stop()

    async def _pause_one(self, node: Node) -> None:
        process = node.process
        if process is None or not process.alive:
            return
        process.pause()
        await self._wait(0.05, 12.0)
        process.resume()

    async def _cut(self, node: Node) -> None:
        self._sim.network.cut.add(node.name)
        await self._wait(0.1, 8.0)
        self._sim.network.cut.discard(node.name)

    async def _outage(self, node: Node) -> None:
        self._sim.network.up = False
        await self._wait(0.1, 8.0)
        self._sim.network.up = True

    async def _clock(self, node: Node) -> None:
        if node.process is not None:
            node.process.skew_us = self._random.randrange(-120_000_000, 120_000_000)

    async def _disk(self, node: Node) -> None:
        self._sim.failing_syncs = 0.3
        await self._wait(0.1, 2.0)
        self._sim.failing_syncs = 0.0

    async def _power(self, node: Node) -> None:
        if self._sim.power is not None:
            self._sim.power.fail_after(self._random.randrange(POWER_WITHIN_OPERATIONS))


async def keep(simulation: Simulation) -> None:
    """Start again what ended, as whoever runs services does."""
    while True:
        await asyncio.sleep(KEEPER_SECONDS)
        for node in simulation.nodes.values():
            node.start()
