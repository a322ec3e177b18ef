"""A failing seed shrinks to the few disturbances that it fails by, and those alone replay it."""

from __future__ import annotations

import json
import subprocess
import sys

from millstream.testing.simulation.campaign import seeds, shrunk
from millstream.testing.simulation.disturbances import reduce_to_few
from millstream.testing.simulation.registry import SCENARIOS
from millstream.testing.simulation.safeguards import SAFEGUARDS


def test_what_does_not_matter_is_left_out() -> None:
    tries = list[frozenset[int]]()

    def fails(keep: frozenset[int]) -> bool:
        tries.append(keep)
        return {7, 19} <= keep

    assert reduce_to_few(list(range(1, 31)), fails) == [7, 19]
    assert len(tries) <= 60


def test_what_fails_by_itself_needs_no_disturbance() -> None:
    assert reduce_to_few(list(range(1, 9)), lambda _: True) == []


def test_a_failing_seed_shrinks_and_is_replayed_by_its_command() -> None:
    guard = SAFEGUARDS["outbox-inside-the-transaction"]
    scenario = SCENARIOS[guard.scenario]
    failing = next(outcome for outcome in seeds(scenario, range(100), guard.removal) if outcome.violations)

    few = shrunk(scenario, failing.seed, guard.removal)

    assert few is not None
    assert 0 < len(few) <= 3 < failing.disturbances
    arguments = [
        scenario.name,
        "--seed",
        str(failing.seed),
        "--replay",
        ",".join(map(str, few)),
        "--without",
        guard.name,
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "millstream", "simulate", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    assert "VIOLATION" in ran.stdout
    assert [line for line in ran.stdout.splitlines() if "disturbance" in line]  # the story says what went wrong
    intact = subprocess.run(
        [sys.executable, "-m", "millstream", "simulate", *arguments[:-2], "--json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert intact.returncode == 0
    assert json.loads(intact.stdout.splitlines()[-1])["violations"] == 0
