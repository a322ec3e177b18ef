"""`kernel`: the delivery kernel on a real SQLite store, the memory log and a clock in hand, driven step by step.

A test says when a batch is read and when a turn of the parked path runs, so that it can look between any two steps.
`consume` runs a whole `Consumer` until nothing of it is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from millstream.delivery import claims
from millstream.delivery.batch import Report, run_batch
from millstream.delivery.claims import Claim
from millstream.delivery.consumer import Consumer
from millstream.delivery.consumption import Consumption, Limits
from millstream.delivery.effects import Slots
from millstream.delivery.operations import StoreOperations
from millstream.delivery.outbox import Origin, Outbox
from millstream.delivery.pacing import Pacer
from millstream.delivery.parking import Concluded, Started, Turn, run_turn
from millstream.delivery.prepared import prepare
from millstream.delivery.registration import Registered, register
from millstream.delivery.relay import Relay
from millstream.delivery.replay import muted_until
from millstream.delivery.solo import Solo
from millstream.delivery.subscription import Subscription
from millstream.delivery.tx import Tx
from millstream.errors import TransportUnavailable
from millstream.ids import Ids, SystemEntropy
from millstream.message import Message, Record, encode_message, event_type, format_time
from millstream.ports.instrumentation import Silent
from millstream.ports.store import Row, Session
from millstream.ports.wake import Wake
from millstream.resilience.backoff import Retry
from millstream.stores.sqlite import SqliteStore
from millstream.testing.clock import ManualClock
from millstream.transports.memory import MemoryTransport

PATIENCE = 10.0
NO_JITTER = Retry(attempts=3, first="1s", jitter=False)


class Kernel:
    """Everything of one service that a rule is about."""

    def __init__(self, store: SqliteStore, log: MemoryTransport, clock: ManualClock) -> None:
        self.store = store
        self.log = log
        self.clock = clock
        self.ids = Ids(now_ms=lambda: clock.now_us() // 1000)
        self.limits = Limits()
        self.operations = StoreOperations("shop", store, clock)
        self.registered: dict[str, Registered] = {}
        self._number = 0

    # -- declaring ----------------------------------------------------------------------------------------------

    async def subscribe(
        self,
        handle: Callable[[Any, Any], Awaitable[Any]],
        *events: type,
        name: str = "sub",
        partitions: int = 1,
        **options: Any,
    ) -> Registered:
        """Provision the topic and register a subscription of these event types."""
        types = tuple(event_type(e) for e in events)
        await self.log.provision(types[0].topic, partitions)
        options.setdefault("retry", NO_JITTER)
        subscription = Subscription("shop", name, types[0].topic, types, handle, "test", **options)
        registered = await self.store.transact(lambda s: register(s, subscription, partitions, {}, None, False))
        self.registered[name] = registered
        return registered

    async def hold(self, registered: Registered, partition: int = 0, owner: str = "w1") -> Consumption:
        """Take a claim of a subscription; it must be free or expired."""
        limits = self.limits
        claim = await self.store.transact(
            lambda s: claims.take(s, registered.id, partition, owner, limits.lease_us, limits.batch_messages)
        )
        assert claim is not None, "the claim has a holder"
        return await self.consumption(registered, claim)

    async def hold_again(self, name: str) -> Consumption:
        """Take the claim of a known subscription over cleanly, as after a restart."""
        await self.run("UPDATE millstream_claims SET owner = NULL, expires = millstream_now()")
        return await self.hold(self.registered[name])

    async def consumption(self, registered: Registered, claim: Claim) -> Consumption:
        subscription = registered.subscription
        origin = Origin("/shop", self.ids, subscription.name, registered.generation)
        return Consumption(
            subscription,
            claim,
            registered.generation,
            {e.name: e for e in subscription.events},
            registered.recorded,
            self.store,
            origin,
            self.clock,
            SystemEntropy(),
            Silent(),
            self.limits,
            (),
            Pacer(self.clock),
            Solo(),
            await muted_until(self.store, *claim.place),
        )

    # -- the log ------------------------------------------------------------------------------------------------

    def message(self, event: Any, **envelope: Any) -> Record:
        """An event as another service's relay appends it."""
        declared = event_type(type(event))
        self._number += 1
        fields: dict[str, Any] = {
            "id": f"m{self._number}",
            "source": "/elsewhere",
            "type": declared.name,
            "time": format_time(self.clock.now_us()),
            "subject": declared.key_of(event),
            "dataversion": declared.version,
            "data": msgspec.Raw(declared.encode(event)),
            **envelope,
        }
        message = Message(**fields)
        return Record(encode_message(message), message.subject)

    async def append(self, *events: Any, partition: int = 0, **envelope: Any) -> None:
        """Put events, or records, into their topic's partition."""
        for event in events:
            record = event if isinstance(event, Record) else self.message(event, **envelope)
            topic = "things" if isinstance(event, Record) else event_type(type(event)).topic
            assert await self.log.publish(topic, partition, [record]) == 1

    async def published(self, topic: str, partition: int = 0) -> list[Record]:
        bounds = await self.log.bounds(topic, partition)
        if bounds.latest == bounds.earliest:
            return []
        reader = self.log.read(topic, partition, bounds.earliest)
        return list(await reader.next(100_000))

    # -- consuming ----------------------------------------------------------------------------------------------

    async def batch(self, c: Consumption, limit: int = 500) -> Report:
        """Read from where the claim stands and run what is there as one batch."""
        reader = self.log.read(c.subscription.topic, c.claim.partition, c.claim.position)
        items = prepare(await reader.next(limit), c.known, c.recorded)
        report = await self.store.transact(lambda s: run_batch(s, c, items, {}, True))
        c.claim.position = items[-1].position
        c.claim.suspect = max(0, c.claim.suspect - len(items))
        return report

    async def turn(
        self, c: Consumption, marked: Sequence[Started] = (), concluded: Sequence[Concluded] = (), room: int = 100
    ) -> Turn:
        wake = Wake(self.clock)
        return await self.store.transact(lambda s: run_turn(s, c, Turn(), marked, concluded, room, wake))

    async def drain(self, c: Consumption, room: int = 100) -> int:
        """Run turns of a handler until no lane is due; how many messages left."""
        gone, marked = 0, list[Started]()
        while True:
            turn = await self.turn(c, marked, room=room)
            gone, marked = gone + turn.gone, turn.started
            if not marked and not await self.due():
                return gone

    async def due(self) -> list[Row]:
        return await self.store.query(
            "SELECT tenant, key FROM millstream_lanes WHERE state IN (0, 4) AND due <= millstream_now()"
        )

    async def consume(self, c: Consumption, until: str) -> None:
        """Run a `Consumer` until a query gives a truth, then stop it in order."""
        consumer = Consumer(c, self.log, Slots(c.subscription.concurrency))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(consumer.run())
            deadline = asyncio.get_running_loop().time() + PATIENCE
            while not await self.one(until):
                assert asyncio.get_running_loop().time() < deadline, f"never came true: {until}"
                await asyncio.sleep(0)
            consumer.stop()
            await running

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "the condition never came true"
            await asyncio.sleep(0)

    # -- publishing ---------------------------------------------------------------------------------------------

    async def emit(self, *events: Any, **options: Any) -> None:
        """Commit events of the service's own, as a route does."""

        async def work(session: Session) -> None:
            outbox = Outbox(Origin("/shop", self.ids))
            tx = Tx(session, outbox, self.clock.now_us())
            for event in events:
                tx.publish(event, **options)
            await outbox.flush(session)

        await self.store.transact(work)

    async def relay(self, log: Any = None) -> None:
        """Run a relay until it has nothing to do or has met an error."""
        relay = Relay(
            self.store,
            log or self.log,
            clock=self.clock,
            entropy=SystemEntropy(),
            instrumentation=Silent(),
            service="shop",
        )
        with suppress(TransportUnavailable):  # it would wait and come again; the rows are still there
            while await relay._round():
                pass
        relay._signal.close()

    # -- looking ------------------------------------------------------------------------------------------------

    async def rows(self, sql: str, *params: Any) -> list[Row]:
        return await self.store.query(sql, *params)

    async def one(self, sql: str, *params: Any) -> Any:
        return (await self.store.query(sql, *params))[0][0]

    async def run(self, sql: str, *params: Any) -> None:
        async def work(session: Session) -> None:
            await session.execute(sql, *params)

        await self.store.transact(work)


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    clock = ManualClock()
    schema = resources.files("millstream.delivery") / "sql"
    async with SqliteStore(tmp_path / "shop.db", clock=clock) as store, MemoryTransport() as log:
        for name in ("0001_kernel.sql", "0002_idempotency.sql"):
            await store.script((schema / name).read_text())
        await store.script("CREATE TABLE applied (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, value INTEGER)")
        yield Kernel(store, log, clock)
