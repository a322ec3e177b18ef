"""Judging what a run left behind: pure functions of rows, tested in `tests/test_bench_peers.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Effect", "Verdict", "judge", "latencies", "longest_pauses", "percentile", "steady_rate"]


@dataclass(frozen=True)
class Effect:
    """A row that a worker wrote. committed_us: when its transaction committed, by the server's clock."""

    n: int
    key: str
    committed_us: int


@dataclass(frozen=True)
class Verdict:
    """events: published. lost: of them without an effect. doubled: effects beyond the first of an event. disordered: events
    whose first effect came after the first effect of a later event of the same key."""

    events: int
    lost: int
    doubled: int
    disordered: int


def judge(published: Iterable[int], effects: Sequence[Effect]) -> Verdict:
    """effects: in the order of their commits. The order of a key is that of its events' numbers."""
    wanted = set(published)
    seen: set[int] = set()
    newest: dict[str, int] = {}
    disordered = 0
    for effect in effects:
        if effect.n in seen:
            continue
        seen.add(effect.n)
        if effect.n < newest.get(effect.key, effect.n):
            disordered += 1
        else:
            newest[effect.key] = effect.n
    return Verdict(len(wanted), len(wanted - seen), len(effects) - len(seen), disordered)


def latencies(published: dict[int, int], effects: Iterable[Effect]) -> list[float]:
    """Seconds from the commit of each business row to the commit of its first effect."""
    first: dict[int, int] = {}
    for effect in effects:
        first.setdefault(effect.n, effect.committed_us)
    return [(first[n] - committed) / 1e6 for n, committed in published.items() if n in first]


def percentile(values: Sequence[float], share: int) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-share * len(ordered) // 100) - 1)]


def steady_rate(effects: Sequence[Effect]) -> float | None:
    """Effects per second behind the first commit: starting up is not in it. None where all came in one commit."""
    if not effects:
        return None
    began, ended = effects[0].committed_us, effects[-1].committed_us
    if ended <= began:
        return None
    return sum(e.committed_us > began for e in effects) / (ended - began) * 1e6


def longest_pauses(kills_us: Sequence[int], effects: Sequence[Effect]) -> list[float]:
    """For each kill the longest time in seconds without an effect between it and the next kill: how long recovery took."""
    found: list[float] = []
    for number, killed in enumerate(kills_us):
        end = kills_us[number + 1] if number + 1 < len(kills_us) else None
        times = [killed] + [
            e.committed_us for e in effects if e.committed_us > killed and (end is None or e.committed_us < end)
        ]
        found.append(max((b - a for a, b in pairwise(times)), default=0) / 1e6)
    return found
