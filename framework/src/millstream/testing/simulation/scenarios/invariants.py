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


async def check_bank(
    sim: Simulation,
    world: World,
    wishes: Wishes,
    *,
    given_up: frozenset[Fact] = frozenset(),
    late: Callable[[Fact], bool] = lambda _: False,
) -> None:
    """given_up: transfers whose events an operator has dropped. late: those that may come after their successors, because
    their lane goes on past a dead letter."""
    moved = await sim.rows("bank", "SELECT account, n, amount, request, reminded FROM transfers ORDER BY id")
    wanted = [(row[0], row[1]) for row in moved if (row[0], row[1]) not in given_up]
    judge = _Judge(sim.violated, wanted, late)
    judge.requests([(row[3], (row[0], row[1])) for row in moved], wishes)
    for table in ("booked", "told"):
        rows = await sim.rows("till", f"SELECT account, n FROM {table} ORDER BY id")  # noqa: S608 - names of tables
        judge.once(table, wanted, [(row[0], row[1]) for row in rows])
        judge.in_order(table, [(row[0], row[1]) for row in rows])
    reminders = await sim.rows("till", "SELECT account, n FROM reminders")
    judge.once("reminded", [(row[0], row[1]) for row in moved if row[4]], [(row[0], row[1]) for row in reminders])
    kept = {row[0]: row[1] for row in await sim.rows("till", "SELECT account, amount FROM balances")}
    judge.sums([(row[0], row[2]) for row in moved if (row[0], row[1]) not in given_up], kept)
    judge.calls(world.calls)
    for service in ("bank", "till"):
        for what in ("outbox", "timers", "parked", "lanes", "dead_letters", "held_keys"):
            count = (await sim.rows(service, f"SELECT COUNT(*) FROM millstream_{what}"))[0][0]  # noqa: S608 - as above
            if count:
                sim.violated(f"{service}: {count} rows left in {what}")


class _Judge:
    def __init__(self, say: Callable[[str], object], wanted: list[Fact], late: Callable[[Fact], bool]) -> None:
        self._say = say
        self._wanted = wanted
        self._late = late

    def requests(self, rows: list[tuple[str, Fact]], wishes: Wishes) -> None:
        """Each wish took effect once, and as it was answered."""
        for request, count in Counter(request for request, _ in rows).items():
            if count > 1:
                self._say(f"request {request} took effect {count} times")
        made = dict(rows)
        for request, promised in wishes.promised.items():
            if made.get(request) != promised:
                self._say(f"request {request} was promised {promised}, and there is {made.get(request)}")

    def once(self, what: str, wanted: list[Fact], seen: list[Fact]) -> None:
        """Each of them once, and nothing else."""
        counts, expected = Counter(seen), set(wanted)
        for fact in wanted:
            if not counts[fact]:
                self._say(f"{what}: {fact} never")
        for fact, count in counts.items():
            if count > 1:
                self._say(f"{what}: {fact} {count} times")
            if fact not in expected:
                self._say(f"{what}: {fact}, which was never committed")

    def in_order(self, what: str, seen: list[Fact]) -> None:
        """Those of an account in the order of their commits."""
        last: dict[str, int] = {}
        for account, n in seen:
            if self._late((account, n)):
                continue
            if n < last.get(account, 0):
                self._say(f"{what}: {account} {n} behind {last[account]}")
            last[account] = max(n, last.get(account, 0))

    def sums(self, moved: list[tuple[str, int]], kept: dict[str, int]) -> None:
        """No money is made or lost."""
        sums: Counter[str] = Counter()
        for account, amount in moved:
            sums[account] += amount
        for account in sorted(sums.keys() | kept.keys()):
            if sums[account] != kept.get(account, 0):
                self._say(f"money: {account} sent {sums[account]}, got {kept.get(account, 0)}")

    def calls(self, calls: list[Called]) -> None:
        """Each at least once, under one idempotency key of its own. A late repeat may follow a newer call: its fence is
        older, and whoever looks at fences refuses it; what they let pass is everything, and in order."""
        keys: dict[str, Fact] = {}
        fences: dict[str, int] = defaultdict(int)
        passed: list[Fact] = []
        for call in calls:
            fact = (call.account, call.n)
            if keys.setdefault(call.key, fact) != fact:
                self._say(f"call: idempotency key {call.key} for {keys[call.key]} and {fact}")
            if call.fence > fences[call.account]:
                fences[call.account] = call.fence
                passed.append(fact)
        made, through = {(call.account, call.n) for call in calls}, set(passed)
        for fact in self._wanted:
            if fact not in made:
                self._say(f"call: {fact} never")
            elif fact not in through:
                self._say(f"call: {fact} never with the newest fence of its lane")
        for fact in sorted(made - set(self._wanted)):
            self._say(f"call: {fact}, which was never committed")
        if len(keys) != len(made):
            self._say(f"call: {len(keys)} idempotency keys for {len(made)} calls")
        self.in_order("call", passed)
