"""From a request to the last event that follows from it, whatever dies on the way."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..scenario import Scenario
from ..simulation import Simulation
from .bank import World, bank, till
from .clients import Wishes, transfers
from .invariants import Fact, check_bank
from .operator import look_after

__all__ = ["EventPath", "FailingDisk", "HotKey", "Killed", "PowerLoss"]


class EventPath(Scenario):
    """Two nodes, several accounts, failures that pass by themselves."""

    name = "event-path"
    about = "requests, events, effects and timers of two services, while anything dies"
    accounts: ClassVar[tuple[str, ...]] = ("ann", "ben", "cleo", "flaky", "busy")

    each: ClassVar[int] = 6
    """Transfers of a client."""
    gap: ClassVar[float] = 0.3
    """Seconds between two of them, at most."""
    repairs: ClassVar[float] = 1.0
    """The chance that an operator repairs before redriving."""
    after_dead_letter: ClassVar[Literal["hold", "go_on"]] = "hold"

    def build(self, sim: Simulation) -> None:
        self.world = World(sim)
        self.wishes = Wishes()
        self.buried: set[Fact] = set()
        """Transfers that a dead letter was about."""
        sim.settings["world"] = self.world
        sim.node("bank", bank())
        sim.node("till", till(self.after_dead_letter))

    async def work(self, sim: Simulation) -> None:
        self.wishes = await transfers(sim, sim.running("bank"), self.accounts, each=self.each, gap=self.gap)

    async def tend(self, sim: Simulation) -> bool:
        return await look_after(sim, sim.running("till"), self.buried, self.repairs)

    async def check(self, sim: Simulation) -> None:
        await check_bank(sim, self.world, self.wishes, given_up=self.given_up, late=self.late)

    given_up: ClassVar[frozenset[Fact]] = frozenset()
    """Transfers whose events the operator drops."""

    def late(self, fact: Fact) -> bool:
        """Whether a transfer may be handled after its successors."""
        return False


class HotKey(EventPath):
    """All of it for one key: nothing runs beside anything, and one failure makes everything wait."""

    name = "hot-key"
    about = "every event has the same key, and one in three fails twice"
    accounts = ("flaky",)


class Killed(EventPath):
    """Nothing but kills, and many of them."""

    name = "killed"
    about = "processes are killed at any step, again and again"
    strikes = ("kill",)
    most_strikes = 14
    pause = 1.0


class FailingDisk(EventPath):
    """Commits that fail take everything of their group back, and processes die beside them."""

    name = "failing-disk"
    about = "syncs fail for a while, so that whole groups of transactions are taken back"
    strikes = ("disk", "disk", "kill")
    most_strikes = 8
    pause = 1.0


class PowerLoss(EventPath):
    """The power of the machine fails in front of any write or sync; what was not synced is lost, kept or torn."""

    name = "power-loss"
    about = "the power fails between a write and its sync, and nothing that was answered may be gone"
    strikes = ("power", "power", "kill")
    most_strikes = 10
    pause = 1.0

    def build(self, sim: Simulation) -> None:
        sim.powered()
        super().build(sim)
