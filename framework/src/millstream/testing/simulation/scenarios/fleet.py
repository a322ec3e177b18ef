"""Several processes share each store: claims, takeovers, and holders that do not know that they were replaced."""

from __future__ import annotations

from typing import cast

from ..simulation import Simulation
from .bank import World, bank, till
from .clients import Wishes
from .event_path import EventPath

__all__ = ["Fleet", "Takeover", "TwoRelays"]


class Fleet(EventPath):
    """Two processes of each service, on stores that they share."""

    name = "fleet"
    about = "two processes of each service share its store, while anything dies"

    def build(self, sim: Simulation) -> None:
        self.world = World(sim)
        self.wishes = Wishes()
        self.buried = set()
        sim.settings["world"] = self.world
        sim.share("bank", "till")
        sim.databases["till"].committed = _Positions(sim).look
        for number in (1, 2):
            sim.node(f"bank-{number}", bank())
            sim.node(f"till-{number}", till(self.after_dead_letter))


class _Positions:
    """A position never moves back: who does not hold a claim any more moves nothing."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._newest: dict[tuple[int, int], int] = {}

    def look(self) -> None:
        reader = self._sim.databases["till"].reader
        if not reader.table_exists("main", "millstream_claims"):
            return
        sql = "SELECT subscription, partition, position FROM millstream_claims"
        for subscription, partition, position in cast(list[tuple[int, int, int]], reader.execute(sql).fetchall()):
            place = (subscription, partition)
            if position < self._newest.get(place, 0):
                self._sim.violated(f"position of {place} moved back from {self._newest[place]} to {position}")
            self._newest[place] = position


class TwoRelays(Fleet):
    """Relays that stop for longer than their claim lives, and go on with what they had in hand."""

    name = "two-relays"
    about = "two relays of one outbox, one paused beyond its claim or cut off, with records in flight"
    strikes = ("pause", "pause", "cut", "kill")
    targets = ("bank-1", "bank-2")
    most_strikes = 6
    pause = 1.0


class Takeover(Fleet):
    """Consumers that stop for longer than their claims live, with a batch or a call in flight on both sides."""

    name = "takeover"
    about = "claims are taken over while their former holder still has a batch or a call in flight"
    accounts = ("ann", "flaky", "busy")
    strikes = ("pause", "pause", "pause", "pause", "kill", "cut", "stop")
    targets = ("till-1", "till-2")
    most_strikes = 8
    pause = 1.0
    gap = 2.0
    each = 8
