"""What must be true of the databases that a system leaves behind, whatever it died of. Nothing of the framework reads them
here: plain SQLite or psycopg, and the outside world's own file.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Protocol

import apsw
import psycopg
from life import Engines

__all__ = ["violations"]

Fact = tuple[str, int]
"""Account and number of a transfer."""


def violations(folder: Path, given_up: frozenset[Fact] = frozenset(), engines: Engines | None = None) -> list[str]:
    """Everything that is wrong, in words, once the last life came to rest and stopped in order. given_up: transfers whose
    events an operator has dropped."""
    store = engines.store if engines is not None else "sqlite"
    bank, till = _database(folder, store, "bank"), _database(folder, store, "till")
    moved = bank.rows("SELECT account, n, amount FROM transfers ORDER BY id")
    transfers = [(account, n) for account, n, _ in moved if (account, n) not in given_up]
    found = _once("booked", transfers, till.rows("SELECT account, n FROM booked ORDER BY id"), ordered=True)
    found += _once("told", transfers, till.rows("SELECT account, n FROM told ORDER BY id"), ordered=True)
    due = bank.rows("SELECT account, n FROM transfers WHERE reminded = 1 ORDER BY id")
    found += _once("reminded", due, till.rows("SELECT account, n FROM reminders"), ordered=False)
    found += _sums([(account, amount) for account, n, amount in moved if (account, n) not in given_up], till)
    found += _calls(transfers, _world(folder))
    found += _left_behind(bank, "bank") + _left_behind(till, "till")
    return found + (_positions(till, Database(folder / "log.db")) if engines is None else [])


class Rows(Protocol):
    """A database, read."""

    def rows(self, sql: str) -> list[Any]: ...


def _database(folder: Path, store: str, service: str) -> Rows:
    return Server(store, service) if store.startswith("postgresql:") else Database(folder / f"{service}.db")


class Server:
    """A service's database on a server, read."""

    def __init__(self, url: str, service: str) -> None:
        self._url = f"{url}/{service}"

    def rows(self, sql: str) -> list[Any]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()


class Database:
    """A file, read."""

    def __init__(self, file: Path) -> None:
        # Not read-only: a WAL that a killed process left is recovered by whoever opens the file next.
        self._connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)

    def rows(self, sql: str) -> list[Any]:
        return self._connection.execute(sql).fetchall()


def _once(what: str, wanted: list[Fact], seen: list[Fact], *, ordered: bool) -> list[str]:
    counts = Counter(seen)
    found = [f"{what}: {fact} never" for fact in wanted if not counts[fact]]
    found += [f"{what}: {fact} {count} times" for fact, count in counts.items() if count > 1]
    found += [f"{what}: {fact}, which was never committed" for fact in set(counts) - set(wanted)]
    return found + (_in_order(what, seen) if ordered else [])


def _in_order(what: str, seen: list[Fact]) -> list[str]:
    last: dict[str, int] = {}
    found: list[str] = []
    for account, n in seen:
        if n < last.get(account, 0):
            found.append(f"{what}: {account} {n} behind {last[account]}")
        last[account] = n
    return found


def _sums(moved: list[tuple[str, int]], till: Rows) -> list[str]:
    sent: Counter[str] = Counter()
    for account, amount in moved:
        sent[account] += amount
    kept = dict(till.rows("SELECT account, amount FROM balances"))
    return [
        f"money: {a} sent {sent.get(a, 0)}, got {kept.get(a, 0)}" for a in sent | kept if sent.get(a) != kept.get(a)
    ]


def _world(folder: Path) -> list[dict[str, Any]]:
    file = folder / "world.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _calls(wanted: list[Fact], calls: list[dict[str, Any]]) -> list[str]:
    """Each at least once; of one account in order, each with a larger fence; one idempotency key for all of its tries."""
    made = {(call["account"], call["n"]) for call in calls}
    found = [f"call: {fact} never" for fact in wanted if fact not in made]
    found += [f"call: {fact}, which was never committed" for fact in made - set(wanted)]
    found += _in_order("call", [(call["account"], call["n"]) for call in calls])
    fences: dict[str, int] = defaultdict(int)
    keys: dict[str, Fact] = {}
    for call in calls:
        account, n, key = call["account"], call["n"], call["key"]
        if call["fence"] <= fences[account]:
            found.append(f"call: {account} {n} with fence {call['fence']} behind {fences[account]}")
        fences[account] = call["fence"]
        if keys.setdefault(key, (account, n)) != (account, n):
            found.append(f"call: idempotency key {key} for {keys[key]} and {account} {n}")
    if len(keys) != len(made):
        found.append(f"call: {len(keys)} idempotency keys for {len(made)} calls")
    return found


def _left_behind(store: Rows, name: str) -> list[str]:
    found: list[str] = []
    for what, sql in {
        "rows in the outbox": "SELECT COUNT(*) FROM millstream_outbox",
        "timers": "SELECT COUNT(*) FROM millstream_timers",
        "parked messages": "SELECT COUNT(*) FROM millstream_parked",
        "lanes": "SELECT COUNT(*) FROM millstream_lanes",
        "dead letters": "SELECT COUNT(*) FROM millstream_dead_letters",
        "held keys": "SELECT COUNT(*) FROM millstream_held_keys",
        "claims that nobody gave back": "SELECT COUNT(*) FROM millstream_claims WHERE owner IS NOT NULL",
        # One that was killed a moment ago is forgotten by the next sign of life of another; until then it has expired.
        "workers that did not leave": f"SELECT COUNT(*) FROM millstream_workers WHERE expires > {time.time_ns() // 1000}",
    }.items():
        count = store.rows(sql)[0][0]
        if count:
            found.append(f"{name}: {count} {what}")
    return found


def _positions(till: Rows, log: Database) -> list[str]:
    ends = {
        (topic, partition): head for topic, partition, head in log.rows("SELECT topic, partition, head FROM streams")
    }
    rows = till.rows(
        "SELECT s.name, s.topic, c.partition, c.position FROM millstream_claims c "
        "JOIN millstream_subscriptions s ON s.id = c.subscription"
    )
    return [f"position: {s} {p} at {at} of {ends[t, p]}" for s, t, p, at in rows if at != ends[t, p]]
