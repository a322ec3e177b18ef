"""What must be true of bank, till and world at rest, whatever they went through."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from ..simulation import Simulation
from .bank import Called, World
from .clients import Wishes

__all__ = ["Fact", "check_bank"]

Fact = tuple[str, int]
"""Account and number of a transfer."""


async def check_bank(sim: Simulation, world: World, wishes: Wishes, given_up: frozenset[Fact] = frozenset()) -> None:
    """given_up: transfers whose events an operator has dropped."""
    say = sim.violated
    moved = await sim.rows("bank", "SELECT account, n, amount, request, reminded FROM transfers ORDER BY id")
    _requests(say, [(row[3], (row[0], row[1])) for row in moved], wishes)
    wanted = [(row[0], row[1]) for row in moved if (row[0], row[1]) not in given_up]
    _once(
        say,
        "booked",
        wanted,
        [(r[0], r[1]) for r in await sim.rows("till", "SELECT account, n FROM booked ORDER BY id")],
    )
    _once(
        say, "told", wanted, [(r[0], r[1]) for r in await sim.rows("till", "SELECT account, n FROM told ORDER BY id")]
    )
    due = [(row[0], row[1]) for row in moved if row[4]]
    seen = [(r[0], r[1]) for r in await sim.rows("till", "SELECT account, n FROM reminders ORDER BY id")]
    _once(say, "reminded", due, seen, ordered=False)
    sums: Counter[str] = Counter()
    for account, n, amount, _, _ in moved:
        if (account, n) not in given_up:
            sums[account] += amount
    kept = {row[0]: row[1] for row in await sim.rows("till", "SELECT account, amount FROM balances")}
    for account in sorted(sums.keys() | kept.keys()):
        if sums[account] != kept.get(account, 0):
            say(f"money: {account} sent {sums[account]}, got {kept.get(account, 0)}")
    _calls(say, wanted, world.calls)
    for service in ("bank", "till"):
        for what in ("outbox", "timers", "parked", "lanes", "dead_letters", "held_keys"):
            count = (await sim.rows(service, f"SELECT COUNT(*) FROM millstream_{what}"))[0][0]  # noqa: S608 - names of tables
            if count:
                say(f"{service}: {count} rows left in {what}")


def _requests(say: Callable[[str], object], rows: list[tuple[str, Fact]], wishes: Wishes) -> None:
    for request, count in Counter(request for request, _ in rows).items():
        if count > 1:
            say(f"request {request} took effect {count} times")
    made = dict(rows)
    for request, promised in wishes.promised.items():
        if made.get(request) != promised:
            say(f"request {request} was promised {promised}, and there is {made.get(request)}")


def _once(
    say: Callable[[str], object], what: str, wanted: list[Fact], seen: list[Fact], *, ordered: bool = True
) -> None:
    counts, expected = Counter(seen), set(wanted)
    for fact in wanted:
        if not counts[fact]:
            say(f"{what}: {fact} never")
    for fact, count in counts.items():
        if count > 1:
            say(f"{what}: {fact} {count} times")
        if fact not in expected:
            say(f"{what}: {fact}, which was never committed")
    if ordered:
        _in_order(say, what, seen)


def _in_order(say: Callable[[str], object], what: str, seen: list[Fact]) -> None:
    last: dict[str, int] = {}
    for account, n in seen:
        if n < last.get(account, 0):
            say(f"{what}: {account} {n} behind {last[account]}")
        last[account] = max(n, last.get(account, 0))


def _calls(say: Callable[[str], object], wanted: list[Fact], calls: list[Called]) -> None:
    """Each at least once, under one idempotency key of its own. A late repeat may follow a newer call: its fence is
    older, and whoever looks at fences refuses it; what they let pass is in order."""
    made = {(call.account, call.n) for call in calls}
    for fact in wanted:
        if fact not in made:
            say(f"call: {fact} never")
    for fact in sorted(made - set(wanted)):
        say(f"call: {fact}, which was never committed")
    keys: dict[str, Fact] = {}
    fences: dict[str, int] = defaultdict(int)
    passed: list[Fact] = []
    for call in calls:
        fact = (call.account, call.n)
        if keys.setdefault(call.key, fact) != fact:
            say(f"call: idempotency key {call.key} for {keys[call.key]} and {fact}")
        if call.fence > fences[call.account]:
            fences[call.account] = call.fence
            passed.append(fact)
    if len(keys) != len(made):
        say(f"call: {len(keys)} idempotency keys for {len(made)} calls")
    _in_order(say, "call", passed)
