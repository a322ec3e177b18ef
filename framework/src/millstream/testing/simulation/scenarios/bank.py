"""The services of the built-in scenarios: a bank that moves money, and a till that books what it hears of.

    POST /transfers ─► transfers, Moved ──► till books it (and its balance), Booked ──► an effect tells the world, Told ──►
                       1 in 4: Reminded, a moment later ──► till notes it                        till notes that it was told

Accounts behave: `flaky` fails twice in every process, `broken` needs an operator, `busy` only answers the second call, and
`poison` kills the process that handles its second transfer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal, final

import msgspec

from ....delivery.tx import Call, Tx
from ....errors import Permanent, Transient
from ....message import Event
from ....resilience.backoff import Retry
from ....service.context import ServiceContext
from ....service.service import Service
from ..network import Lost
from ..process import current

if TYPE_CHECKING:
    from ..simulation import Simulation

__all__ = ["POISON", "Called", "World", "bank", "till"]

POISON = ("poison", 2)
"""Account and number of the transfer that kills."""
RETRY = Retry(attempts=1000, first="50ms", cap="1s")
"""Enough for what fails twice in each of many lives, and for a world that is away as long as a run takes: what becomes a
dead letter here is what says so."""


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


class Transfer(msgspec.Struct, frozen=True):
    """The body of a request. request: which of the client's wishes it is; it comes again with every try."""

    account: str
    amount: int
    request: str
    remind: bool = False


class Transferred(msgspec.Struct, frozen=True):
    account: str
    n: int


class Called(msgspec.Struct, frozen=True):
    """A call that arrived in the outside world."""

    account: str
    n: int
    fence: int
    key: str


@final
class World:
    """The outside: writes every call down as it arrives. Outlives all processes."""

    def __init__(self, simulation: Simulation) -> None:
        self.calls: list[Called] = []
        self.simulation = simulation

    async def take(self, call: Called) -> None:
        self.calls.append(call)


@final
class Mood:
    """What one process remembers: how often it failed at something on purpose."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._failed: Counter[tuple[str, int]] = Counter()

    def fails(self, account: str, n: int, times: int) -> bool:
        self._failed[account, n] += 1
        return self._failed[account, n] <= times


def bank() -> Service:
    """The bank's declaration."""
    service = Service("bank", migrations="bank_sql")
    service.emits(Moved, Reminded)

    @service.post("/transfers", idempotent=True, summary="Move money")
    async def transfer(body: Transfer, tx: Tx) -> Transferred:
        row = await tx.fetch_one("SELECT COALESCE(MAX(n), 0) + 1 FROM transfers WHERE account = ?", body.account)
        n: int = row[0] if row is not None else 1
        await tx.execute(
            "INSERT INTO transfers (account, n, amount, request, reminded) VALUES (?, ?, ?, ?, ?)",
            body.account,
            n,
            body.amount,
            body.request,
            int(body.remind),
        )
        tx.publish(Moved(body.account, n, body.amount))
        if body.remind:
            tx.publish(Reminded(body.account, n), delay="1s")
        return Transferred(body.account, n)

    _ = transfer
    return service


def till(after_dead_letter: Literal["hold", "go_on"] = "hold") -> Service:
    """The till's declaration. It needs the setting `world`."""
    service = Service("till", migrations="till_sql")

    @service.resource(Mood)
    async def mood(context: ServiceContext) -> AsyncIterator[Mood]:
        yield Mood(context.settings["world"])

    @service.on(Moved, name="book", retry=RETRY, after_dead_letter=after_dead_letter)
    async def book(event: Moved, tx: Tx, mood: Mood) -> Booked:
        if (event.account, event.n) == POISON and (victim := current()) is not None:
            victim.kill()
        await tx.execute(
            "INSERT INTO booked (account, n, amount) VALUES (?, ?, ?)", event.account, event.n, event.amount
        )
        await tx.execute(
            "INSERT INTO balances (account, amount) VALUES (?, ?) "
            "ON CONFLICT (account) DO UPDATE SET amount = balances.amount + excluded.amount",
            event.account,
            event.amount,
        )
        if event.account == "flaky" and event.n % 3 == 0 and mood.fails(event.account, event.n, 2):
            raise Transient("not now")
        if event.account == "broken" and event.n % 4 == 0:
            row = await tx.fetch_one("SELECT 1 FROM repaired WHERE account = ? AND n = ?", event.account, event.n)
            if row is None:
                raise Permanent("somebody has to repair this")
        return Booked(event.account, event.n)

    @service.effect(Booked, name="tell", retry=RETRY, concurrency=4)
    async def tell(event: Booked, call: Call, mood: Mood) -> Told:
        world = mood.world
        called = Called(event.account, event.n, call.fence, call.idempotency_key)
        try:
            await world.simulation.network.call(lambda: world.take(called), repeatable=False)
        except Lost as error:
            raise Transient(str(error)) from error
        if event.account == "busy" and event.n % 2 and mood.fails(event.account, -event.n, 1):
            raise Transient("it did take the call, and says that it did not")
        return Told(event.account, event.n)

    @service.on(Told, name="note")
    async def note(event: Told, tx: Tx) -> None:
        await tx.execute("INSERT INTO told (account, n) VALUES (?, ?)", event.account, event.n)

    @service.on(Reminded, name="remind")
    async def remind(event: Reminded, tx: Tx) -> None:
        await tx.execute("INSERT INTO reminders (account, n) VALUES (?, ?)", event.account, event.n)

    _ = mood, book, tell, note, remind
    return service
