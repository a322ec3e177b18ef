"""One life of the system in a process of its own: it goes on where the last one ended, works until a number of transfers
is there, comes to rest, stops in order; unless it is killed before.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from bank import ACCOUNTS, POISON, Moved, Reminded, bank, till
from millstream.clock import SystemClock
from millstream.delivery.consumption import Limits
from millstream.delivery.operations import StoreOperations
from millstream.delivery.operations_api import DeadLetterFilter
from millstream.delivery.outbox import Outbox
from millstream.delivery.tx import Tx
from millstream.errors import Refused, Transient
from millstream.ports.instrumentation import Field, Silent
from millstream.ports.store import Session, Store
from millstream.ports.transport import Transport
from millstream.runtime import adapters
from millstream.runtime.runtime import Bound, Composition, Runtime
from millstream.stores.sqlite import SqliteStore
from millstream.testing.crash.forked import Body, Report
from millstream.testing.failpoints import Failpoints, FailpointStore, FailpointTransport
from millstream.testing.removals.removal import INTACT, Removal
from millstream.testing.removals.through import StoreThrough
from millstream.transports.log import LogTransport

__all__ = ["BETWEEN", "Engines", "Life", "live"]

PRODUCERS = 3
REST_SECONDS = 0.004
"""Between two looks at whether everything is at rest."""
OPERATOR_SECONDS = 0.02
AWAY_SECONDS = 0.05
"""Until the next try while an engine is away."""
BETWEEN = "between two transactions"
"""Where a removal has torn one transaction into two."""

# One statement, so that it is one moment of the store: what a batch did and how far it came are seen together.
_UNDER_WAY = """
SELECT w.n, s.topic, c.partition, c.position
FROM (SELECT {counts} AS n) w
LEFT JOIN millstream_subscriptions s ON TRUE LEFT JOIN millstream_claims c ON c.subscription = s.id
"""
_TABLES = ("outbox", "timers", "parked", "lanes", "dead_letters")
UNDER_WAY = _UNDER_WAY.format(counts=" + ".join(f"(SELECT COUNT(*) FROM millstream_{t})" for t in _TABLES))
CLOCK = SystemClock()


class Diary(Silent):
    """Keeps the log lines of all lives in one file, which says most of what there is to say about one that got stuck."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "log.txt"

    def log(self, level: str, event: str, **fields: Field) -> None:
        if level != "debug":
            with self._file.open("a") as file:
                file.write(f"{time.time():.2f} {os.getpid()} {level} {event} {fields}\n")


class Engines(msgspec.Struct, frozen=True):
    """Other engines than the embedded ones, by the URLs of their adapters. lease: of a claim, in seconds: where several
    processes share a store, it is how long the next life waits for what a killed one held."""

    store: str
    transport: str
    lease: float = 1.0


class Life(msgspec.Struct, frozen=True):
    """transfers: how many there are to be in the end. point, hit: where to die. poison: transfers of that account too.
    until: transfers are made until this file is there, however many, with `pause` seconds behind each. stops: it works until
    SIGTERM, then stops in order, at rest or not."""

    transfers: int
    point: str = ""
    hit: int = 1
    poison: bool = False
    removal: Removal = INTACT
    engines: Engines | None = None
    until: Path | None = None
    pause: float = 0.0
    stops: bool = False


def live(folder: Path, life: Life) -> Body:
    """The body of a worker."""

    async def body(report: Report) -> None:
        points = Failpoints(report.at)
        if life.point:
            points.arm(life.point, life.hit)
        removal = life.removal

        def open_store(name: str) -> Store:
            store = removal.store(_store(folder, life.engines, name), name)
            if isinstance(store, StoreThrough):
                store.between = lambda: points.hit(BETWEEN)
            return FailpointStore(store, points, name)

        lease = life.engines.lease if life.engines is not None else Limits().lease_seconds
        composition = Composition(
            open_store=open_store,
            transport=FailpointTransport(removal.transport(_log(folder, life.engines)), points),
            data=folder,
            limits=Limits(batch_messages=40, lease_seconds=lease),
            partitions=3,
            settings=lambda _: {"points": points},
            instrumentation=Diary(folder),
        )
        async with Runtime((bank, till), composition) as runtime:
            report.ready()
            async with asyncio.TaskGroup() as group:
                operator = group.create_task(_operate(runtime.bound["till"]))
                producers = [group.create_task(_produce(runtime.bound["bank"], life)) for _ in range(PRODUCERS)]
                if life.stops:
                    await _told_to_stop()
                    for producer in producers:
                        producer.cancel()
                else:
                    await asyncio.wait(producers)
                    while await _busy(runtime):  # noqa: ASYNC110 - a condition over two databases and a log
                        await asyncio.sleep(REST_SECONDS)
                operator.cancel()
        report.counted(dict(points.counts))

    return body


async def _told_to_stop() -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()


def _store(folder: Path, engines: Engines | None, name: str) -> Store:
    if engines is None:
        return SqliteStore(folder / f"{name}.db")
    return adapters.open_store(engines.store, name, folder, CLOCK, Diary(folder))


def _log(folder: Path, engines: Engines | None) -> Transport:
    if engines is None:
        return LogTransport(folder / "log.db")
    return adapters.open_transport(engines.transport, adapters.AdapterContext(folder, CLOCK, Diary(folder)))


async def _produce(bound: Bound, life: Life) -> None:
    dice = random.Random()
    accounts = (*ACCOUNTS, *[POISON[0]] * 4) if life.poison else ACCOUNTS
    while await _transfer(bound, _limit(life), dice.choice(accounts), dice):  # noqa: ASYNC110 - the pace of a producer
        await asyncio.sleep(life.pause)


def _limit(life: Life) -> int:
    if life.until is None:
        return life.transfers
    return 0 if life.until.exists() else sys.maxsize


async def _transfer(bound: Bound, limit: int, account: str, dice: random.Random) -> bool:
    """One transfer, unless there are enough. One in eight is taken back at the last moment."""

    async def work(session: Session) -> bool:
        row = await session.fetch_one("SELECT COUNT(*) FROM transfers")
        if row is None or row[0] >= limit:
            return False
        outbox = Outbox(bound.origin)
        tx = Tx(session, outbox, CLOCK.now_us())
        found = await tx.fetch_one(
            "INSERT INTO numbers (account, n) VALUES (?, 1) ON CONFLICT (account) DO UPDATE SET n = numbers.n + 1 "
            "RETURNING n",
            account,
        )
        n, amount, later = (found or (1,))[0], dice.randint(1, 1000), dice.random() < 0.25
        await tx.execute(
            "INSERT INTO transfers (account, n, amount, reminded) VALUES (?, ?, ?, ?)", account, n, amount, int(later)
        )
        tx.publish(Moved(account, n, amount))
        if later:
            tx.publish(Reminded(account, n), delay="10ms")
        await outbox.flush(session)
        if dice.random() < 0.125:
            raise Refused("taken back")
        return True

    try:
        return await bound.store.transact(work)
    except Refused:
        return True
    except Transient:  # the engine is away for a moment, or ended this very transaction
        await asyncio.sleep(AWAY_SECONDS)
        return True


async def _operate(bound: Bound) -> None:
    """Repair what became a dead letter, and redrive it; drop what kills."""
    operations = StoreOperations("till", bound.store, CLOCK, ["tell"])
    while True:
        try:
            await _look_after(bound, operations)
        except (Transient, Refused):  # away, or another process's operator was faster
            await asyncio.sleep(AWAY_SECONDS)
        await asyncio.sleep(OPERATOR_SECONDS)


async def _look_after(bound: Bound, operations: StoreOperations) -> None:
    for letter in await operations.dead_letters(DeadLetterFilter()):
        found = await operations.dead_letter(letter.id)
        if found is None:
            continue
        data = msgspec.json.decode(found.message)["data"]
        if (data["account"], data["n"]) == POISON:
            await operations.drop(DeadLetterFilter(ids=(letter.id,)))
            continue

        async def repair(session: Session, data: dict[str, Any] = data) -> None:
            sql = "INSERT INTO repaired (account, n) VALUES (?, ?) ON CONFLICT DO NOTHING"
            await session.execute(sql, data["account"], data["n"])

        await bound.store.transact(repair)
        await operations.redrive(DeadLetterFilter(ids=(letter.id,)))


async def _busy(runtime: Runtime) -> bool:
    """Whether anything is still on its way, as far as one can see."""
    try:
        return await _under_way(runtime)
    except Transient:
        await asyncio.sleep(AWAY_SECONDS)
        return True


async def _under_way(runtime: Runtime) -> bool:
    """The producing side first: what left it is in the log by then."""
    for name in ("bank", "till"):
        for count, topic, partition, position in await runtime.bound[name].store.query(UNDER_WAY):
            if count:
                return True
            if topic is not None and (await runtime.composition.transport.bounds(topic, partition)).latest != position:
                return True
    return False
