"""The system that is killed: a bank that moves money, and a till that books it, tells the outside world and reminds.

    bank: transfer row + Moved ──► till: `book` ── Booked ──► `tell` (effect) ── Told ──► `note`
                     └ 1 in 4: Reminded, a moment later ──► `remind`

Accounts behave: `flaky` fails twice in every process, `broken` needs an operator now and then, `busy` only answers the
second call, `poison` (where asked for) kills the process that handles it.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from millstream import Call, Event, Permanent, Retry, Service, Transient, Tx
from millstream.service.context import ServiceContext
from millstream.testing.failpoints import Failpoints

__all__ = ["ACCOUNTS", "POISON", "Moved", "Reminded", "World", "bank", "till"]

ACCOUNTS = ("ann", "ben", "cleo", "dan", "eve", "flaky", "broken", "busy")
POISON = ("poison", 2)
"""Account and number of the transfer that kills."""
SOON = Retry(attempts=4, first="4ms", cap="16ms")


class Moved(Event, topic="moves", key="account", version=1):
    account: str
    n: int
    amount: int


class Reminded(Event, topic="reminders", key="account", version=1):
    account: str
    n: int


class Booked(Event, topic="bookings", key="account", version=1):
    account: str
    n: int


class Told(Event, topic="tellings", key="account", version=1):
    account: str
    n: int


class World:
    """The outside: writes every call down as it arrives, in a file of its own that survives the caller."""

    def __init__(self, file: Path, points: Failpoints) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.points = points
        self.failed: Counter[tuple[str, int]] = Counter()
        """Times that this process failed at something on purpose."""

    def note(self, event: Booked, call: Call) -> None:
        said = {"account": event.account, "n": event.n, "fence": call.fence, "key": call.idempotency_key}
        os.write(self._descriptor, json.dumps(said).encode() + b"\n")

    def fails(self, account: str, n: int, times: int) -> bool:
        self.failed[account, n] += 1
        return self.failed[account, n] <= times

    def close(self) -> None:
        os.close(self._descriptor)


bank = Service("bank", migrations="bank_sql")
bank.emits(Moved, Reminded)

till = Service("till", migrations="till_sql")


@till.resource(World)
async def world(context: ServiceContext) -> AsyncIterator[World]:
    opened = World(context.data / "world.jsonl", context.settings["points"])
    yield opened
    opened.close()


@till.on(Moved, name="book", retry=SOON)
async def book(event: Moved, tx: Tx, world: World) -> Booked:
    if (event.account, event.n) == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    await tx.execute("INSERT INTO booked (account, n, amount) VALUES (?, ?, ?)", event.account, event.n, event.amount)
    await tx.execute(
        "INSERT INTO balances (account, amount) VALUES (?, ?) "
        "ON CONFLICT (account) DO UPDATE SET amount = balances.amount + excluded.amount",
        event.account, event.amount,
    )  # fmt: skip
    if event.account == "flaky" and event.n % 3 == 0 and world.fails(event.account, event.n, 2):
        raise Transient("not now")
    if event.account == "broken" and event.n % 4 == 0:
        row = await tx.fetch_one("SELECT 1 FROM repaired WHERE account = ? AND n = ?", event.account, event.n)
        if row is None:
            raise Permanent("somebody has to repair this")
    return Booked(event.account, event.n)


@till.effect(Booked, name="tell", retry=SOON, concurrency=4)
async def tell(event: Booked, call: Call, world: World) -> Told:
    world.points.hit("call: before")
    world.note(event, call)
    world.points.hit("call: after")
    if event.account == "busy" and event.n % 2 and world.fails(event.account, -event.n, 1):
        raise Transient("it did take the call, and says that it did not")
    return Told(event.account, event.n)


@till.on(Told, name="note")
async def note(event: Told, tx: Tx) -> None:
    await tx.execute("INSERT INTO told (account, n) VALUES (?, ?)", event.account, event.n)


@till.on(Reminded, name="remind")
async def remind(event: Reminded, tx: Tx) -> None:
    await tx.execute("INSERT INTO reminders (account, n) VALUES (?, ?)", event.account, event.n)
