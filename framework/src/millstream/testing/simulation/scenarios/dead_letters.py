"""Messages that cannot be handled before somebody repairs something, and one that nobody survives."""

from __future__ import annotations

from .bank import POISON
from .event_path import EventPath
from .invariants import Fact

__all__ = ["KillingMessage", "PoisonGoOn", "PoisonHold", "RedriveDuringFailure"]


class PoisonHold(EventPath):
    """Every fourth transfer of an account fails for good until an operator has repaired it; its lane waits."""

    name = "poison-hold"
    about = "a message that fails for good holds its lane until it is repaired and redriven"
    accounts = ("broken", "broken", "ann")


class PoisonGoOn(PoisonHold):
    """The same, with lanes that go on."""

    name = "poison-go-on"
    about = "a lane goes on past a dead letter, which is redriven later"
    after_dead_letter = "go_on"

    def late(self, fact: Fact) -> bool:
        return fact in self.buried


class RedriveDuringFailure(PoisonHold):
    """The operator redrives all the time, and mostly without having repaired anything."""

    name = "redrive-during-failure"
    about = "letters are redriven while what they died of is still there, and while processes die"
    repairs = 0.2
    tend_seconds = 0.2
    strikes = ("kill", "kill", "pause", "stop")
    most_strikes = 6
    pause = 1.0


class KillingMessage(EventPath):
    """A transfer that kills whoever handles it, among others that wait behind it and beside it."""

    name = "killing-message"
    about = "one message kills its process each time, until it is a dead letter"
    accounts = ("poison", "ann", "flaky")
    strikes = ("kill",)
    most_strikes = 1
    given_up = frozenset({POISON})
