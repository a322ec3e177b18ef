"""Runs every check of the repository, one after the other, and prints what each came to and how long it took.

    python scripts/check.py                      everything: the static checks, then every test suite
    python scripts/check.py --static             the static checks alone
    python scripts/check.py --proof              every suite at full length: what a release needs, hours
    python scripts/check.py pyright services     the steps whose name contains one of these words

A failed step does not stop the ones after it. Exit code 0 when all passed, 1 when one failed, 2 when no step has such a
name. Every test file belongs to a suite: a folder of tests that this script does not know is a failure, never a gap.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Outcome", "Step", "main", "static_steps", "suites"]

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PYTHON = sys.executable

TIME_LIMIT_SECONDS = 1800
"""Of one step. The slowest suites kill processes in a loop and take minutes; beyond this something hangs."""

PROOF = "MILLSTREAM_PROOF"
"""Set for suites that run at full length: every combination of engines instead of every pair, for instance."""
PROOF_LIMIT_SECONDS = 6 * 3600

SUITE_ROOTS = ("framework/tests", "services/tests", "examples", "tests")
"""Where tests live. Each folder with tests directly below one is a suite of its own."""


@dataclass(frozen=True)
class Step:
    """A command, run in `folder`, that passes when it exits with 0."""

    name: str
    command: tuple[str, ...]
    folder: Path = ROOT


@dataclass(frozen=True)
class Outcome:
    """What a step came to."""

    step: Step
    verdict: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"


def static_steps() -> list[Step]:
    """The checks that run nothing of the project but its tools."""
    return [
        Step("ruff check", (f"{BIN}/ruff", "check")),
        Step("ruff format", (f"{BIN}/ruff", "format", "--check", "--output-format", "concise")),
        Step("import layers", (f"{BIN}/lint-imports", "--no-logo")),
        Step("domains", (PYTHON, "scripts/check_domains.py")),
        Step("pyright", (f"{BIN}/pyright",)),
        Step("buf lint", (f"{BIN}/buf", "lint"), ROOT / "proto"),
        Step("proto code", (PYTHON, "scripts/proto.py", "--check")),
        Step("architecture", (PYTHON, "scripts/check_architecture.py")),
    ]


def suites(root: Path = ROOT) -> list[Step]:
    """One step per folder of tests, and one for the test files that lie directly in a root."""
    found: list[Step] = []
    for name in SUITE_ROOTS:
        top = root / name
        folders = sorted({file.relative_to(top).parts[0] for file in _test_files(top) if file.parent != top})
        found += [_suite(f"{name}/{folder}") for folder in folders]
        loose = sorted(str(file.relative_to(root)) for file in _test_files(top) if file.parent == top)
        if loose:
            found.append(_suite(name, *loose))
    return found


def _suite(name: str, *paths: str) -> Step:
    return Step(f"tests: {name}", (PYTHON, "-m", "pytest", "--quiet", *(paths or (name,))))


def _test_files(folder: Path) -> list[Path]:
    found = [*folder.rglob("test_*.py"), *folder.rglob("*_test.py")]
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _run(step: Step, limit_seconds: int) -> Outcome:
    print(f"\n=== {step.name}", flush=True)
    started = time.monotonic()
    try:
        code = subprocess.run(step.command, cwd=step.folder, timeout=limit_seconds, check=False).returncode
        verdict = "passed" if code == 0 else f"FAILED, exit code {code}"
    except subprocess.TimeoutExpired:
        verdict = f"FAILED, stopped after {limit_seconds} s"
    except FileNotFoundError as error:
        verdict = f"FAILED, {error.filename} is missing: run `make clean`, then again"
    return Outcome(step, verdict, time.monotonic() - started)


def _print_summary(outcomes: list[Outcome]) -> None:
    width = max(len(outcome.step.name) for outcome in outcomes)
    print("\n" + "=" * (width + 30))
    for outcome in outcomes:
        print(f"{outcome.step.name:<{width}}  {outcome.seconds:>7.1f} s  {outcome.verdict}")
    failed = sum(not outcome.passed for outcome in outcomes)
    total = sum(outcome.seconds for outcome in outcomes)
    print("=" * (width + 30))
    print(f"{len(outcomes)} steps in {total:.1f} s: " + (f"{failed} FAILED" if failed else "all passed"), flush=True)


def main(arguments: list[str]) -> int:
    """Run the chosen steps; the exit code."""
    proof = "--proof" in arguments
    steps = static_steps() if "--static" in arguments else suites() if proof else [*static_steps(), *suites()]
    words = [argument for argument in arguments if argument not in ("--static", "--proof")]
    if words:
        every = [step.name for step in steps]
        steps = [step for step in steps if any(word in step.name for word in words)]
        if not steps:
            print(f"no step is called {' or '.join(words)}; there are: {', '.join(every)}")
            return 2
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if proof:
        os.environ[PROOF] = "1"
    outcomes = [_run(step, PROOF_LIMIT_SECONDS if proof else TIME_LIMIT_SECONDS) for step in steps]
    _print_summary(outcomes)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
