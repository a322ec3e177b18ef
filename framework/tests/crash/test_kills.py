"""Kill -9 is the specification: a system that is killed anywhere, as often as it pleases, loses, doubles and reorders
nothing, and comes to rest.

`MILLSTREAM_CRASH_KILLS=100` makes processes die a hundred times at each point instead of five; `MILLSTREAM_CRASH_SEED` other hits.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from life import Life, live
from millstream.testing.crash.campaign import Story, Tally, play
from millstream.testing.crash.forked import Forked
from stories import ROWS, Death, story

KILLS = int(os.environ.get("MILLSTREAM_CRASH_KILLS", "5"))
"""Of each point."""
SEED = int(os.environ.get("MILLSTREAM_CRASH_SEED", "1"))
CHAIN = 5
"""Kills on one data folder before it is judged."""
SELDOM = 4
"""Passings in a life up to which a point counts as rare: lives differ, and the next ones may not come to it at all."""

# The places that a crash test of this design must know, whatever else the statements bring.
ESSENTIAL = (
    "bank: before BEGIN",
    "bank: insert transfers",
    "bank: insert outbox",
    "bank: insert timers",
    "bank: before COMMIT of insert numbers",
    "bank: after COMMIT of insert numbers",
    "log: before publish",
    "log: after publish",
    "bank: delete outbox",
    "bank: before COMMIT of delete outbox",
    "bank: after COMMIT of delete outbox",
    "bank: delete timers",
    "bank: after COMMIT of delete timers",
    "log: after read",
    "till: update claims (owner, epoch, fence, expires, suspect)",
    "till: update claims (position, expires, suspect)",
    "till: insert inbox",
    "till: insert watermarks",
    "till: insert booked",
    "till: insert parked",
    "till: insert lanes",
    "till: insert outbox",
    "till: after ROLLBACK TO",
    "till: before COMMIT of update claims (position, expires, suspect)",
    "till: after COMMIT of update claims (position, expires, suspect)",
    "till: update parked (starts)",
    "till: update parked (attempts, starts, error)",
    "till: update claims (expires, fence)",
    "till: delete parked",
    "till: delete lanes",
    "till: before COMMIT of update claims (expires, fence)",
    "till: after COMMIT of update claims (expires, fence)",
    "till: insert dead_letters",
    "till: update claims (position)",
    "till: delete dead_letters",
    "till: after COMMIT of update claims (position)",
    "till: update claims (owner, expires)",
    "call: before",
    "call: after",
)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """Every point with how often a life passes it, learned from lives that nobody kills."""
    folder = tmp_path_factory.mktemp("scout")
    seen: Counter[str] = Counter()
    for number in range(1, 5):
        end = Forked(live(folder, Life(number * 3 * ROWS))).wait()
        assert end.how == "done", end.text
        seen |= Counter(end.counts)
    return seen


def _deaths(points: Counter[str], dice: random.Random) -> list[Death]:
    """Each point often enough: at its first passing, and at others that lives of this size come to."""
    found: list[Death] = []
    for point, count in sorted(points.items()):
        hits = [1] + [dice.randint(1, max(1, count // 4)) for _ in range(KILLS - 1)]
        found += [Death(point, hit) for hit in hits]
    dice.shuffle(found)
    return found


def _stories(folder: Path, deaths: list[Death], tally: Tally) -> Iterator[Story]:
    for at in range(0, len(deaths), CHAIN):
        yield story(folder / f"{at:05}", deaths[at : at + CHAIN], tally)


def test_a_kill_at_any_named_point_loses_doubles_and_reorders_nothing(
    tmp_path: Path, points: Counter[str], tally: Tally
) -> None:
    missing = [point for point in ESSENTIAL if point not in points]
    assert not missing, f"no life passes {missing}"
    before = tally.kills.copy()
    play(_stories(tmp_path / "first", _deaths(points, random.Random(SEED)), tally))
    for turn in range(8):  # lives differ: a point that one did not come to is tried again, at its first passing
        left = [Death(p) for p in sorted(points) if tally.kills[p] - before[p] < min(KILLS, 2)]
        if not left:
            break
        play(_stories(tmp_path / f"again-{turn}", left, tally))
    expected = {*ESSENTIAL, *(point for point, count in points.items() if count > SELDOM)}
    never = [point for point in sorted(expected) if tally.kills[point] == before[point]]
    assert not never, f"nobody died at {never}"


def test_a_kill_in_the_middle_of_recovery_changes_nothing(tmp_path: Path, tally: Tally) -> None:
    """What starts first in a new process dies first: many lives that never come to work."""
    early = (
        "till: before script", "till: after script", "till: before COMMIT of insert claims", "log: after read",
        "till: after COMMIT of insert claims", "till: after COMMIT of update claims (expires)",
        "till: after COMMIT of update claims (owner, epoch, fence, expires, suspect)", "log: after publish",
        "till: update lanes (state, due)", "till: insert inbox", "bank: before BEGIN", "bank: delete outbox",
        "till: update parked (starts)", "call: before",
    )  # fmt: skip
    dice = random.Random(SEED)
    chains = [
        [Death("till: insert outbox", 3), *(Death(dice.choice(early)) for _ in range(7)), Death("call: after")]
        for _ in range(max(1, 2 * KILLS))
    ]
    play(story(tmp_path / str(n), deaths, tally) for n, deaths in enumerate(chains))


def test_a_kill_at_any_moment_changes_nothing(tmp_path: Path, tally: Tally) -> None:
    """From outside, at random: inside the engine's own COMMIT as well, where no point has a name."""
    dice = random.Random(SEED)
    chains = [[Death(after=dice.random() * 0.06) for _ in range(CHAIN + 1)] for _ in range(max(1, 4 * KILLS))]
    play(story(tmp_path / str(n), deaths, tally) for n, deaths in enumerate(chains))


def test_enough_kills(tally: Tally, request: pytest.FixtureRequest) -> None:
    if len(request.session.items) < 4:
        pytest.skip("a part of the suite was asked for")
    assert tally.total >= 280
