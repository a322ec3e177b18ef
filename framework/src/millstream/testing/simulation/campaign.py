"""Many runs: by seeds, and by a crash at every step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from ..removals.removal import INTACT, Removal
from .disturbances import reduce_to_few
from .scenario import Crash, Outcome, Scenario, play

__all__ = ["Tally", "crash_points", "seeds", "shrunk", "sweep"]


def seeds(scenario: type[Scenario], numbers: Iterable[int], removal: type[Removal] = Removal) -> Iterator[Outcome]:
    """One run for each seed, with everything that a scenario is up against."""
    for seed in numbers:
        yield play(scenario(), seed, removal=removal())


def crash_points(scenario: type[Scenario], seed: int, before: tuple[Crash, ...] = ()) -> list[Crash]:
    """Every step that a node takes in the calm run of this seed, as a crash instead of it. before: crashes that this run
    has behind it already: the points are then those of the recovery from the last of them."""
    outcome = play(scenario(), seed, calm=True, crashes=before, owners=True)
    if outcome.violations:
        raise AssertionError(f"{scenario.name}, seed {seed}, is not calm: {outcome.violations}")
    start = before[-1].step if before else 0
    # A crash takes the place of a step: what ran is counted without them.
    shift = len(before)
    return [
        Crash(step, owner)
        for step, owner in enumerate(outcome.owners, 1 + shift)
        if step > start and owner not in ("outside", "test")
    ]


def sweep(
    scenario: type[Scenario],
    seed: int,
    *,
    every: int = 1,
    most: int | None = None,
    recovery: bool = False,
    removal: Removal = INTACT,
) -> Iterator[Outcome]:
    """A crash at every step of the calm run (or at each `every`-th, at most `most`); with `recovery`, one more crash in the
    life after each, at a step that moves on from run to run."""
    points = crash_points(scenario, seed)[::every][:most]
    for number, point in enumerate(points):
        crashes: tuple[Crash, ...] = (point,)
        if recovery:
            later = crash_points(scenario, seed, crashes)
            if not later:
                continue
            crashes = (point, later[number * 7919 % len(later)])
        yield play(scenario(), seed, calm=True, crashes=crashes, removal=removal)


def shrunk(scenario: type[Scenario], seed: int, removal: type[Removal] = Removal) -> tuple[int, ...] | None:
    """The few disturbances of a failing seed without which it does not fail; None if it does not fail at all."""
    first = play(scenario(), seed, removal=removal())
    if not first.violations:
        return None

    def fails(keep: frozenset[int]) -> bool:
        return bool(play(scenario(), seed, removal=removal(), keep=keep).violations)

    return tuple(reduce_to_few(list(range(1, first.disturbances + 1)), fails))


class Tally(msgspec.Struct):
    """What many runs came to. `digest` folds theirs, in order."""

    runs: int = 0
    crash_points: int = 0
    steps: int = 0
    seconds: float = 0.0
    faults: int = 0
    violations: int = 0
    digest: str = ""

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.crash_points += outcome.kills
        self.steps += outcome.steps
        self.seconds += outcome.seconds
        self.faults += outcome.faults + outcome.strikes
        self.violations += len(outcome.violations)
        self.digest = hashlib.blake2b(f"{self.digest}{outcome.digest}".encode(), digest_size=8).hexdigest()
