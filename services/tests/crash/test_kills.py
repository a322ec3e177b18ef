"""Twenty times kill -9 under real load, each time on the same folder and the same port: every order that was accepted is
there, paid, booked and told of exactly once.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import apsw
from customers import Customers
from running import Up

KILLS = int(os.environ.get("MILLSTREAM_CRASH_UP_KILLS", "20"))
SEED = int(os.environ.get("MILLSTREAM_CRASH_SEED", "1"))
RATE = 120.0
"""Orders per second: the machine is shared with the client, and a restart has to catch up."""
BUSY_SECONDS = 60.0


def until_sent(customers: Customers, orders: int) -> None:
    """Return when that many more orders were sent: a kill without work would kill nothing."""
    goal, deadline = customers.sent + orders, time.monotonic() + BUSY_SECONDS
    while customers.sent < goal:
        assert time.monotonic() < deadline, "nothing moves"
        time.sleep(0.002)


ROUNDS = 10
"""How often an operator looks again for dead letters of the crash loop."""


def test_twenty_kills_under_load_lose_and_double_nothing(up: Up) -> None:
    dice = random.Random(SEED)
    up.start()
    customers = Customers(up, RATE, most=40_000)
    customers.begin()
    began = time.monotonic()
    for number in range(KILLS):
        until_sent(customers, 1)
        time.sleep(dice.uniform(0.05, 1.2))  # the moment of the kill
        up.kill()
        if number % 7 == 6:  # and once more while it starts: somewhere between nothing and ready
            up.begin()
            time.sleep(dice.random())
            up.kill()
        up.start()
    until_sent(customers, 20)
    customers.finish()
    seconds = time.monotonic() - began
    # A call that waited for its turn to run alone may be found out only after others were redriven.
    redriven, verdict = redrive_innocents(up), customers.verdict()
    for _ in range(ROUNDS):
        if not (again := redrive_innocents(up)):
            break
        redriven, verdict = redriven + again, customers.verdict()
    print(f"{KILLS} kills in {seconds:.1f} s, {customers.repeats} repeats, {redriven} redriven: {verdict.line()}")  # noqa: T201
    assert verdict.passed, "\n".join(verdict.complaints[:20])
    assert customers.repeats > 0
    assert letters(up) == []
    assert up.stop() == 0
    assert left_behind(up.data) == []


def redrive_innocents(up: Up) -> int:
    """What an operator does after a crash loop: a call that was under way in three processes in a row, none of which
    lived long enough to hear its answer, is taken for what killed them (rule C5)."""
    found = letters(up)
    assert [letter for letter in found if not letter["reason"].startswith("crashed")] == []
    if found:
        up.cli_json("dlq", "redrive", "--all", "--reason", "crashed")
    return len(found)


def letters(up: Up) -> list[Any]:
    """The dead letters of all services."""
    return up.cli_json("dlq", "list", "--limit", "0")[0]["dead_letters"]


def left_behind(data: Path) -> list[str]:
    """What lies in the stores although everything is settled and the process has stopped in order."""
    found: list[str] = []
    for service in ("gateway", "orders", "payments", "notifications"):
        database = apsw.Connection(str(data / f"{service}.db"), flags=apsw.SQLITE_OPEN_READWRITE)
        for table in ("outbox", "timers", "parked", "lanes", "dead_letters", "held_keys", "workers"):
            count = database.execute(f"SELECT COUNT(*) FROM millstream_{table}").fetchall()[0][0]
            if count:
                found.append(f"{service}: {count} {table}")
        if database.execute("SELECT COUNT(*) FROM millstream_claims WHERE owner IS NOT NULL").fetchall()[0][0]:
            found.append(f"{service}: claims that nobody gave back")
    return found
