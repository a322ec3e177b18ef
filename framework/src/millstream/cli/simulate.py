"""`millstream simulate`: run scenarios of the deterministic simulator, by seeds or by a crash at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import Misconfigured
from .exits import Exit
from .options import Json
from .output import hint, print_json, write

if TYPE_CHECKING:
    from ..testing.removals.removal import Removal
    from ..testing.simulation.campaign import Tally
    from ..testing.simulation.scenario import Outcome

__all__ = ["simulate"]


def simulate(
    scenario: Annotated[str | None, Parameter(help="Which scenario; see --list.")] = None,
    /,
    *,
    seeds: Annotated[int | None, Parameter(help="Run seeds 0 to N - 1.")] = None,
    seed: Annotated[int | None, Parameter(help="Run this seed alone, and tell its story.")] = None,
    crashes: Annotated[
        int | None, Parameter(help="Without other faults, kill at up to N steps of one seed, one in each run; 0: all.")
    ] = None,
    recovery: Annotated[bool, Parameter(negative=(), help="With --crashes: kill once more while it recovers.")] = False,
    replay: Annotated[
        str | None, Parameter(help="With --seed: only the disturbances of these numbers happen, as `3,7`, or `none`.")
    ] = None,
    shrink: Annotated[
        bool, Parameter(negative=(), help="Find the few disturbances that a failing --seed fails by.")
    ] = False,
    without: Annotated[str | None, Parameter(help="Take out a safeguard; see --list.")] = None,
    list_: Annotated[bool, Parameter(name="--list", negative=(), help="Show scenarios and safeguards.")] = False,
    json: Json = False,
) -> int:
    """Run a scenario against the real kernel on simulated engines; exit code 1 when a promise is broken.

    The same seed gives the same run, on every machine with this version: a failing seed is replayed with --seed.
    """
    if list_:
        _list(json)
        return Exit.OK
    if scenario is None:
        raise Misconfigured("name a scenario, or ask for --list")
    if seed is None and (replay is not None or shrink):
        raise Misconfigured("--replay and --shrink are about one run: name its --seed")
    if seed is not None and seeds is not None:
        raise Misconfigured("--seed runs one seed and --seeds several: give one of them")
    from ..testing.removals.removal import Removal
    from ..testing.simulation.safeguards import safeguard_named

    removal = Removal if without is None else safeguard_named(without).removal
    if shrink:
        replay = _shrunk(scenario, seed or 0, removal, without, json)
    keep = None if replay is None else _numbers(replay)
    story = None if json else write
    tally = _run(_outcomes(scenario, removal, seeds, seed, crashes, recovery, keep, story), json)
    result = {
        "runs": tally.runs,
        "crash_points": tally.crash_points,
        "violations": tally.violations,
        "hash": tally.digest,
        "steps": tally.steps,
        "faults": tally.faults,
        "simulated_seconds": round(tally.seconds, 3),
    }
    if json:
        print_json(result)
    else:
        write(", ".join(f"{name} {value}" for name, value in result.items()))
    return Exit.PROBLEMS if tally.violations else Exit.OK


def _outcomes(
    scenario: str,
    removal: type[Removal],
    seeds: int | None,
    seed: int | None,
    crashes: int | None,
    recovery: bool,
    keep: frozenset[int] | None,
    story: Callable[[str], object] | None,
) -> Iterator[Outcome]:
    from ..testing.simulation.campaign import seeds as by_seeds
    from ..testing.simulation.campaign import sweep
    from ..testing.simulation.registry import scenario_named
    from ..testing.simulation.scenario import play

    chosen = scenario_named(scenario)
    if crashes is not None:
        return sweep(chosen, seed or 0, most=crashes or None, recovery=recovery, removal=removal())
    if seed is not None:
        return iter([play(chosen(), seed, removal=removal(), keep=keep, story=story)])
    return by_seeds(chosen, range(seeds or 1), removal)


def _numbers(replay: str) -> frozenset[int]:
    if replay == "none":
        return frozenset()
    try:
        return frozenset(int(number) for number in replay.split(","))
    except ValueError:
        raise Misconfigured(f"--replay {replay}: give the numbers of disturbances as in 3,7, or `none`") from None


def _shrunk(scenario: str, seed: int, removal: type[Removal], without: str | None, json: bool) -> str:
    from ..testing.simulation.campaign import shrunk
    from ..testing.simulation.registry import scenario_named

    few = shrunk(scenario_named(scenario), seed, removal)
    if few is None:
        raise Misconfigured(f"--shrink: seed {seed} of {scenario} does not fail, there is nothing to shrink")
    replay = ",".join(map(str, few)) or "none"
    again = f"millstream simulate {scenario} --seed {seed} --replay {replay}" + (
        f" --without {without}" if without else ""
    )
    if json:
        print_json({"seed": seed, "replay": replay, "command": again})
    else:
        write(f"shrunk: {again}")
    return replay


def _run(outcomes: Iterator[Outcome], json: bool) -> Tally:
    from ..testing.simulation.campaign import Tally

    tally = Tally()
    for outcome in outcomes:
        tally.add(outcome)
        for words in outcome.violations:
            if json:
                print_json({"seed": outcome.seed, "violation": words})
            else:
                write(f"seed {outcome.seed}: {words}")
        if not json and tally.runs % 100 == 0:
            hint(f"{tally.runs} runs, {tally.violations} violations")
    return tally


def _list(json: bool) -> None:
    from ..testing.simulation.registry import SCENARIOS
    from ..testing.simulation.safeguards import SAFEGUARDS

    if json:
        scenarios = [{"name": s.name, "about": s.about} for s in SCENARIOS.values()]
        safeguards = [
            {"name": s.name, "scenario": s.scenario, "rule": s.rule, "about": s.about} for s in SAFEGUARDS.values()
        ]
        print_json({"scenarios": scenarios, "safeguards": safeguards})
        return
    for scenario in SCENARIOS.values():
        write(f"{scenario.name}: {scenario.about}")
    for guard in SAFEGUARDS.values():
        write(f"--without {guard.name} ({guard.rule}, caught by {guard.scenario}): {guard.about}")
