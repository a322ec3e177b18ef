"""Runs the suites that look for rare failures for as long as there is time, each round from another seed, and writes down how much
was tried at which commit.

    python scripts/proof.py                                  every part up to its goal for a release: hours
    python scripts/proof.py --minutes 30                     for half an hour, the parts in turn
    python scripts/proof.py --parts failpoints network       these parts alone
    python scripts/proof.py --list                           the parts, their goals, and how far they are
    python scripts/proof.py --fresh                          forget what was done at this commit, begin again

One round of each part at a time, as many parts side by side as there are processors. What was done is kept in
`var/proof/state.json`: a run that was interrupted goes on where it was, unless the commit is another one. The result goes to
`bench/results/proof-<commit>.json`. Exit code 1 when a round failed: its output stays in `var/proof/`, its seed in its name.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["PARTS", "Done", "Part", "main"]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "var" / "proof"
STATE = FOLDER / "state.json"
ROUND_SECONDS = 6 * 3600
"""A round that takes longer hangs."""
COUNTS = "MILLSTREAM_PROOF_COUNTS"
"""Names a file to which a suite appends lines of JSON: numbers by what was counted. They are added up."""


@dataclass(frozen=True)
class Part:
    """One suite. measure: the count, or the sum of those counts, that the goal is about. environment: of the round with this
    seed. once: its rounds would all be the same."""

    name: str
    paths: tuple[str, ...]
    measure: tuple[str, ...]
    goal: int
    environment: Callable[[int], Mapping[str, str]]
    once: bool = False


@dataclass
class Done:
    """What was done of a part at this commit."""

    rounds: int = 0
    failed: int = 0
    seconds: float = 0.0
    counts: dict[str, float] = field(default_factory=dict[str, float])

    def reached(self, part: Part) -> int:
        return round(sum(self.counts.get(name, 0) for name in part.measure))

    def finished(self, part: Part) -> bool:
        return self.reached(part) >= part.goal or (part.once and self.rounds > 0)


PARTS = (
    Part(
        "failpoints", ("framework/tests/crash",), ("process_kills",), 10_000,
        lambda seed: {"MILLSTREAM_CRASH_KILLS": "10", "MILLSTREAM_CRASH_SEED": str(seed)},
    ),
    Part(
        "engine-kills", ("framework/tests/engines/test_kills.py",), ("worker_kills", "engine_kills"), 1_000,
        lambda seed: {"MILLSTREAM_ENGINE_KILLS": "18", "MILLSTREAM_CRASH_SEED": str(seed), "MILLSTREAM_PROOF": "1"},
    ),
    Part(
        "network", ("framework/tests/engines/test_network_faults.py",), ("fault_episodes",), 5_000,
        lambda seed: {"MILLSTREAM_FAULT_EPISODES": "60", "MILLSTREAM_FAULT_SEED": str(seed)},
    ),
    Part(
        "rolling", ("framework/tests/engines/test_rolling_stops.py",), ("rolling_stops",), 1_000,
        lambda seed: {"MILLSTREAM_ROLLING_STOPS": "50", "MILLSTREAM_CRASH_SEED": str(seed)},
    ),
    Part("journeys", ("services/tests/journeys",), ("passed",), 1, lambda _: {"MILLSTREAM_PROOF": "1"}, once=True),
    Part("simulation", ("framework/tests/simulation",), ("passed",), 1, lambda _: {"MILLSTREAM_PROOF": "1"}, once=True),
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run rounds until the goals are reached or the time is over; the exit code."""
    parser = argparse.ArgumentParser(description="Long runs of the suites that look for rare failures.")
    parser.add_argument("--minutes", type=float, default=None, help="begin no round after so many minutes")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="these alone")
    parser.add_argument("--list", action="store_true", help="say how far each part is, and run nothing")
    parser.add_argument("--fresh", action="store_true", help="forget what was done at this commit")
    asked = parser.parse_args(arguments)
    commit = _commit()
    parts = [part for part in PARTS if not asked.parts or part.name in asked.parts]
    done = {} if asked.fresh else _remembered(commit)
    for part in PARTS:
        done.setdefault(part.name, Done())
    if not asked.list:
        until = time.monotonic() + (asked.minutes if asked.minutes is not None else 1e9) * 60
        try:
            _run(parts, done, commit, until)
        except KeyboardInterrupt:
            print("\nstopped; the next run goes on from here", flush=True)
        _write_result(commit, done)
    for line in _table(parts, done):
        print(line)
    return 1 if any(done[part.name].failed for part in parts) else 0


def _run(parts: list[Part], done: dict[str, Done], commit: str, until: float) -> None:
    under_way: dict[Future[tuple[bool, float, Counter[str]]], Part] = {}
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        while True:
            idle = [part for part in parts if part not in under_way.values() and not done[part.name].finished(part)]
            # The part that has had the least time is next: all of them move, however long their rounds are.
            idle.sort(key=lambda part: done[part.name].seconds)
            while idle and len(under_way) < (os.cpu_count() or 1) and time.monotonic() < until:
                part = idle.pop(0)
                seed = done[part.name].rounds + 1
                print(f"{datetime.now(UTC):%H:%M:%S}  {part.name:<14} round {seed} begins", flush=True)
                under_way[pool.submit(_round, part, seed, commit)] = part
            if not under_way:
                return
            ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                part = under_way.pop(future)
                _note(part, done[part.name], *future.result())
                _remember(commit, done)


def _round(part: Part, seed: int, commit: str) -> tuple[bool, float, Counter[str]]:
    """Whether it passed, how long it took, and what was counted."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = f"{commit[:9]}-{part.name}-{seed:04}"
    counts, output = FOLDER / f"{name}.counts", FOLDER / f"{name}.txt"
    counts.unlink(missing_ok=True)
    began = time.monotonic()
    with output.open("w") as file:
        command = [sys.executable, "-m", "pytest", "--quiet", "-o", "faulthandler_timeout=0", *part.paths]
        environment = {**os.environ, **part.environment(seed), COUNTS: str(counts)}
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, timeout=ROUND_SECONDS, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    found: Counter[str] = Counter()
    if counts.exists():
        for line in counts.read_text().splitlines():
            found.update(json.loads(line))
    if code == 0:
        found["passed"] += 1
        output.unlink()
    counts.unlink(missing_ok=True)
    return code == 0, time.monotonic() - began, found


def _note(part: Part, done: Done, passed: bool, seconds: float, counts: Counter[str]) -> None:
    done.rounds += 1
    done.failed += not passed
    done.seconds = round(done.seconds + seconds, 1)
    for name, count in counts.items():
        done.counts[name] = round(done.counts.get(name, 0) + count, 1)
    verdict = "passed" if passed else "FAILED"
    at = f"{datetime.now(UTC):%H:%M:%S}"
    print(
        f"{at}  {part.name:<14} round {done.rounds} {verdict} in {seconds:.0f} s: {done.reached(part)} of {part.goal}",
        flush=True,
    )


def _table(parts: list[Part], done: dict[str, Done]) -> list[str]:
    lines = [f"{'part':<14}  {'rounds':>6}  {'failed':>6}  {'seconds':>8}  {'reached':>8}  {'goal':>8}"]
    for part in parts:
        one = done[part.name]
        lines.append(
            f"{part.name:<14}  {one.rounds:>6}  {one.failed:>6}  {one.seconds:>8.0f}  {one.reached(part):>8}  {part.goal:>8}"
        )
    return lines


def _commit() -> str:
    git = ["git", "rev-parse", "HEAD"]
    return subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _remembered(commit: str) -> dict[str, Done]:
    try:
        kept: dict[str, Any] = json.loads(STATE.read_text())
    except FileNotFoundError:
        return {}
    return {name: Done(**one) for name, one in kept["parts"].items()} if kept["commit"] == commit else {}


def _remember(commit: str, done: dict[str, Done]) -> None:
    text = json.dumps({"commit": commit, "parts": {name: asdict(one) for name, one in done.items()}}, indent=2)
    new = STATE.with_suffix(".new")
    new.write_text(text + "\n")
    new.replace(STATE)  # a run that is killed while it writes keeps what it had


def _write_result(commit: str, done: dict[str, Done]) -> None:
    parts = {
        part.name: {**asdict(done[part.name]), "reached": done[part.name].reached(part), "goal": part.goal}
        for part in PARTS
        if done[part.name].rounds
    }
    if parts:
        changed = bool(
            subprocess.run(
                ["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT, capture_output=True, check=True
            ).stdout
        )
        written = {
            "commit": commit,
            "uncommitted_changes": changed,
            "written": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}",
            "processors": os.cpu_count(),
            "parts": parts,
        }
        file = ROOT / "bench" / "results" / f"proof-{commit[:9]}.json"
        file.write_text(json.dumps(written, indent=2) + "\n")
        print(f"written to {file.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
