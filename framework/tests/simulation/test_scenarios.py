"""The real kernel under the nemesis: no promise is broken with all safeguards, and each one's removal is caught."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from millstream.testing.simulation.campaign import Tally, crash_points, seeds, sweep
from millstream.testing.simulation.registry import SCENARIOS
from millstream.testing.simulation.safeguards import SAFEGUARDS

SEEDS = 4
"""For each scenario, with each push. More come with `millstream simulate SCENARIO --seeds N`."""
PATIENCE = 100
"""Seeds within which the removal of a safeguard must be caught."""


def command(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "millstream", "simulate", *arguments],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_is_broken(name: str) -> None:
    tally, broken = Tally(), list[str]()
    for outcome in seeds(SCENARIOS[name], range(SEEDS)):
        tally.add(outcome)
        broken += [f"seed {outcome.seed}: {words}" for words in outcome.violations]

    assert broken == []
    assert tally.faults > 0


@pytest.mark.parametrize("name", SAFEGUARDS)
def test_the_removal_of_a_safeguard_is_caught(name: str) -> None:
    safeguard, seen = SAFEGUARDS[name], list[str]()
    for outcome in seeds(SCENARIOS[safeguard.scenario], range(PATIENCE), safeguard.removal):
        seen += outcome.violations
        if any(re.search(safeguard.shows, words) for words in outcome.violations):
            return
    pytest.fail(f"{name}: its removal went unseen through {PATIENCE} seeds of {safeguard.scenario}; seen: {seen[:5]}")


@pytest.mark.parametrize("recovery", [False, True], ids=["once", "again-while-it-recovers"])
def test_a_crash_at_any_step_breaks_no_promise(recovery: bool) -> None:
    every = len(crash_points(SCENARIOS["event-path"], 3)) // (8 if recovery else 20)
    tally, broken = Tally(), list[str]()
    for outcome in sweep(SCENARIOS["event-path"], 3, every=every, recovery=recovery):
        tally.add(outcome)
        broken += outcome.violations

    assert broken == []
    assert tally.crash_points >= (1 + recovery) * tally.runs >= 8


def test_the_command_gives_one_hash_in_interpreters_that_hash_differently() -> None:
    said = [command("killed", "--seeds", "3", "--json", hash_seed=h) for h in ("0", "77")]

    assert [run.returncode for run in said] == [0, 0], said[0].stderr
    last = [json.loads(run.stdout.splitlines()[-1]) for run in said]
    assert last[0] == last[1]
    assert last[0]["runs"] == 3
    assert last[0]["violations"] == 0
    assert len(last[0]["hash"]) == 16


def test_the_command_lists_scenarios_and_safeguards() -> None:
    listed = json.loads(command("--list", "--json").stdout)

    assert {s["name"] for s in listed["scenarios"]} == set(SCENARIOS)
    assert {s["name"] for s in listed["safeguards"]} == set(SAFEGUARDS)
    assert {s["scenario"] for s in listed["safeguards"]} <= set(SCENARIOS)


def test_the_command_tells_of_a_violation_by_its_exit_code() -> None:
    ran = command("hot-key", "--seed", "0", "--without", "lane-check", "--json")

    assert ran.returncode == 1
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert lines[0]["seed"] == 0
    assert lines[-1]["violations"] == len(lines) - 1 > 0


def test_a_name_that_nobody_has_is_wrong_usage() -> None:
    ran = command("nonsense")

    assert ran.returncode == 2
    assert "event-path" in ran.stderr
