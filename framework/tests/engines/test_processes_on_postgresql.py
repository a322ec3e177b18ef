"""Rules that only several connections can break, each with its safeguard and without: without it the test must notice.

Two stores on one database stand for two processes of a service; they share a log in memory.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from millstream import Event
from millstream.clock import SystemClock
from millstream.delivery import batch, claims, inbox
from millstream.delivery.batch import run_batch
from millstream.delivery.claims import Claim
from millstream.delivery.consumption import Consumption, Limits
from millstream.delivery.outbox import OUTBOX_CHANNEL, slot_of, write_rows
from millstream.delivery.prepared import Prepared, prepare
from millstream.delivery.relay import Relay
from millstream.errors import ClaimLost, StoreUnavailable
from millstream.ids import SystemEntropy
from millstream.message import Record
from millstream.ports.instrumentation import Silent
from millstream.ports.store import Row, Session
from millstream.postgresql.database import database_of
from millstream.postgresql.listener import Listener
from millstream.runtime.migrations import migrate
from millstream.stores.postgresql import PostgresqlStore
from millstream.stores.postgresql.session import PostgresqlSession
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.transports.memory import MemoryTransport

PATIENCE = 15.0
LEASE = 1.0
DAY_US = 86_400_000_000
HELD = {True: "held", False: "taken out"}


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"processes_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_conftest = _loaded(Path(__file__).parents[1] / "unit" / "conftest.py")


class Thing(Event, topic="things", key="key"):
    key: str
    value: int


async def apply(event: Thing, tx: Any) -> None:
    await tx.execute("INSERT INTO applied (key, value) VALUES (?, ?)", event.key, event.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    settings = {"track_commit_timestamp": "on"}
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql"), settings) as server:
        yield server


@pytest.fixture
async def processes(server: PostgresqlServer, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, Any]]:
    """Two kernels of one service."""
    name = f"p{abs(hash(request.node.name)) % 10**12}"
    stores = [PostgresqlStore(database_of(f"{server.url}?limit=3s", name)) for _ in range(2)]
    async with MemoryTransport() as log, stores[0] as here:
        await migrate(here, "shop", None)
        await here.script("CREATE TABLE applied (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, value INTEGER)")
        async with stores[1]:
            kernels = [_conftest.Kernel(store, log, SystemClock()) for store in stores]
            for kernel in kernels:
                kernel.limits = Limits(lease_seconds=LEASE)
            yield kernels[0], kernels[1]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the server is waited for
            await asyncio.sleep(0.01)


# -- T4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [True, False], ids=HELD.get)
async def test_t4_rows_of_a_key_are_numbered_in_the_order_of_their_commits(
    processes: tuple[Any, Any], rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits that take a while, on two processes, five keys: a row's number says when it was committed."""
    here, there = processes
    # A commit of its own length for each transaction: what was inserted first is not what commits first.
    await here.store.script(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_sleep(random() * 0.01); RETURN NULL; END$$; "
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON millstream_outbox DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    if not rule:
        monkeypatch.setattr(PostgresqlSession, "lock_slots", _lock_nothing)

    async def publish(kernel: Any, number: int) -> None:
        async def work(session: Session) -> None:
            await write_rows(session, [("things", f"k{number % 5}", b"x")])

        await kernel.store.transact(work)

    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(publish((here, there)[number % 2], number))
    rows = await here.rows("SELECT key, pg_xact_commit_timestamp(xmin)::text FROM millstream_outbox ORDER BY id")
    assert len(rows) == 200
    by_key: dict[str, list[str]] = {}
    for key, committed in rows:
        by_key.setdefault(key, []).append(committed)
    in_order = all(times == sorted(times) for times in by_key.values())
    assert in_order == rule


async def _lock_nothing(self: PostgresqlSession, slots: Any) -> None: ...


# -- R2 -----------------------------------------------------------------------------------------------------------------


class WithAFloor:
    """A store that never looks below the last row that it has shown: the short cut that rule R2 forbids."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._floor = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def query(self, sql: str, *params: Any) -> list[Row]:
        rows = await self._inner.query(sql, *params)
        if "millstream_outbox o" in sql:
            rows = [row for row in rows if row[0] > self._floor]
            self._floor = max([self._floor, *(row[0] for row in rows)])
        return rows


class WaitsForGaps(WithAFloor):
    """A store that shows rows only up to the first number that is missing: what a long transaction then holds up."""

    async def query(self, sql: str, *params: Any) -> list[Row]:
        rows = await self._inner.query(sql, *params)
        if "millstream_outbox o" in sql:
            known = [row for place, row in enumerate(rows, self._floor + 1) if row[0] == place]
            self._floor += len(known)
            return known
        return rows


@pytest.mark.parametrize("kind", [None, WithAFloor, WaitsForGaps], ids=["held", "with a floor", "waits for gaps"])
async def test_r2_a_long_transaction_stalls_nobody_and_its_row_is_not_lost(
    processes: tuple[Any, Any], server: PostgresqlServer, kind: type[WithAFloor] | None
) -> None:
    here, there = processes
    await here.log.provision("things", 1)
    store: Any = there.store if kind is None else kind(there.store)
    relay = Relay(
        store, there.log, clock=there.clock, entropy=SystemEntropy(), instrumentation=Silent(), service="shop"
    )

    async def arrived(count: int) -> bool:
        return len(await there.published("things")) >= count

    async def arrives(count: int) -> bool:
        with suppress(TimeoutError):
            await until(lambda: arrived(count), 3.0)
        return await arrived(count)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(relay.run())
        # A caller's own transaction, of another driver, that stays open after its row was written (row 1).
        with psycopg.connect(f"{server.url}/{here.store.database.name}") as long:
            long.execute("SELECT pg_advisory_xact_lock(28019, %s)", (slot_of("things", "slow"),))
            long.execute(
                "INSERT INTO millstream_outbox (slot, topic, key, value) VALUES (%s, 'things', 'slow', 'late')",
                (slot_of("things", "slow"),),
            )
            await here.emit(Thing(key="quick", value=1))
            not_stalled = await arrives(1)
            long.commit()
        not_lost = await arrives(2)
        relay.stop()
        await running
    assert (not_stalled, not_lost) == {
        None: (True, True), WithAFloor: (True, False), WaitsForGaps: (False, True)
    }[kind]  # fmt: skip


@pytest.mark.parametrize("rule", [True, False], ids=HELD.get)
async def test_r2_a_commit_wakes_the_other_process_at_once(
    processes: tuple[Any, Any], rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = processes
    if not rule:
        monkeypatch.setattr(Listener, "_send", lambda self: setattr(self, "_sending", None))
    signal = there.store.listen(OUTBOX_CHANNEL)
    woken = 0
    for number in range(5):
        await here.emit(Thing(key="a", value=number))
        woken += await signal.wait(0.9)  # less than the sweep
    assert woken == (5 if rule else 0)
    signal.close()


@pytest.mark.parametrize("rule", [True, False], ids=HELD.get)
async def test_r2_what_was_committed_while_nobody_listened_wakes_at_the_reconnect(
    processes: tuple[Any, Any], server: PostgresqlServer, rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = processes
    signal = there.store.listen(OUTBOX_CHANNEL)
    listener = there.store.listener
    connection = listener._connection
    server.execute(f"SELECT pg_terminate_backend({connection.backend_pid})")
    await until(lambda: _is(lambda: connection.lost is not None))
    if not rule:
        woken = set(listener._signals)
        monkeypatch.setattr(listener, "_signals", {})  # nobody is woken by the reconnect
        await here.emit(Thing(key="a", value=1))
        await until(lambda: _is(lambda: listener._connection.lost is None))
        await asyncio.sleep(0.1)
        assert woken == {OUTBOX_CHANNEL}
        assert not await signal.wait(1.0)
        return
    await here.emit(Thing(key="a", value=1))
    assert await signal.wait(5.0)
    await here.emit(Thing(key="a", value=2))
    assert await signal.wait(5.0)
    signal.close()


async def _is(condition: Callable[[], bool]) -> bool:
    return condition()


# -- C8 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [True, False], ids=HELD.get)
async def test_c8_what_another_process_purged_is_never_run_again(
    processes: tuple[Any, Any], rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process consumes, the other purges between its transactions; then an old message comes a second time."""
    here, there = processes
    if not rule:
        admit = inbox.admit
        monkeypatch.setattr(
            batch.inbox, "admit", lambda session, claim, items, now_us, _: admit(session, claim, items, now_us, 1 << 60)
        )
    here.limits = there.limits = Limits(lease_seconds=LEASE, inbox_retention_seconds=86_400.0)
    sub = await here.subscribe(apply, Thing)
    c = await here.hold(sub)
    old = here.message(Thing(key="a", value=1), time="2024-01-01T00:00:00.000000Z")
    await here.append(old)
    await here.batch(c)
    await here.append(Thing(key="b", value=2))
    await here.batch(c)
    _, gone = await there.store.transact(lambda s: inbox.purge(s, (0, "", ""), DAY_US, 10))
    assert gone == 1
    await here.append(old)
    await here.batch(c)
    times_run = await here.one("SELECT COUNT(*) FROM applied WHERE key = 'a'")
    letters = await here.rows("SELECT reason FROM millstream_dead_letters")
    assert (times_run, letters) == ((1, [("older than the inbox",)]) if rule else (2, []))


@pytest.mark.parametrize("rule", [True, False], ids=HELD.get)
async def test_c8_while_a_stream_stands_still_its_inbox_stays(
    processes: tuple[Any, Any], rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound follows the newest message, not the clock: a repeat of the last message of a year ago is a repeat."""
    here, there = processes
    sub = await here.subscribe(apply, Thing)
    c = await here.hold(sub)
    last = here.message(Thing(key="a", value=1), time="2024-01-01T00:00:00.000000Z")
    await here.append(last)
    await here.batch(c)

    async def purge_by_the_clock(session: Session) -> None:
        await session.execute("DELETE FROM millstream_inbox WHERE time < millstream_now() - ?", DAY_US)

    if rule:
        await there.store.transact(lambda s: inbox.purge(s, (0, "", ""), DAY_US, 10))
    else:
        await there.store.transact(purge_by_the_clock)
    await here.append(last)
    await here.batch(c)
    assert await here.one("SELECT COUNT(*) FROM applied") == (1 if rule else 2)


# -- C1, C9 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [True, False], ids=HELD.get)
async def test_c1_a_holder_that_paused_longer_than_its_lease_changes_nothing(
    processes: tuple[Any, Any], rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that cannot be read has no identity in the inbox: run twice it makes two dead letters."""
    here, there = processes
    if not rule:
        monkeypatch.setattr(
            claims,
            "_ADVANCE",
            claims._ADVANCE.replace("AND epoch = ? AND position = ?", "AND epoch >= 0 * ? AND position >= 0 * ?"),
        )
    sub = await here.subscribe(apply, Thing)
    paused = await here.hold(sub, owner="here")
    await here.append(Record(b"no message", "a"))
    await here.append(Thing(key="a", value=1))
    in_hand = await _read(here, paused)

    taken = await _taken(there, sub, "there")
    await _run(there, taken, await _read(there, taken))
    if rule:
        with pytest.raises(ClaimLost):
            await _run(here, paused, in_hand)
    else:
        await _run(here, paused, in_hand)
    assert await here.one("SELECT COUNT(*) FROM millstream_dead_letters") == (1 if rule else 2)
    # It may be what stopped the former holder: it was parked and runs alone (C4), once.
    await there.drain(taken)
    assert await here.one("SELECT COUNT(*) FROM applied") == 1


@pytest.mark.parametrize("rule", [True, False], ids=HELD.get)
async def test_c1_a_holder_that_paused_inside_its_transaction_is_taken_over(
    processes: tuple[Any, Any], rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the claim's row: nobody waits for that (C9), the server ends its session, and what it had begun is undone."""
    here, there = processes
    if not rule:
        monkeypatch.setattr(claims, "_TAKE", claims._TAKE.replace("/*postgresql FOR UPDATE SKIP LOCKED */", ""))
    frozen, thawed = asyncio.Event(), asyncio.Event()

    async def freezing(event: Thing, tx: Any) -> None:
        if frozen.is_set():  # it is the other process's turn
            await apply(event, tx)
            return
        connection = tx._session._connection
        send = connection.send

        def later(statements: Any, done: Any) -> None:
            frozen.set()
            group.create_task(_after(thawed, lambda: send(statements, done)))

        connection.send = later
        await apply(event, tx)

    sub = await here.subscribe(freezing, Thing)
    paused = await here.hold(sub, owner="here")
    await here.append(Record(b"no message", "a"))
    await here.append(Thing(key="a", value=1))
    async with asyncio.TaskGroup() as group:
        stopped = group.create_task(_outcome(_run(here, paused, await _read(here, paused))))
        await frozen.wait()
        await until(lambda: _expired(there))
        began = time.monotonic()
        first = await _outcome(_take(there, sub, "there"))
        assert (time.monotonic() - began < 1.0) == rule, "who takes claims over must not wait for a row"
        assert first is None or not rule
        taken = await there.consumption(sub, first) if isinstance(first, Claim) else await _taken(there, sub, "there")
        assert time.monotonic() - began < 8.0
        await _run(there, taken, await _read(there, taken))
        thawed.set()
        assert isinstance(await stopped, StoreUnavailable)
    assert await here.one("SELECT COUNT(*) FROM millstream_dead_letters") == 1
    await there.drain(taken)
    assert await here.one("SELECT COUNT(*) FROM applied") == 1


async def _expired(kernel: Any) -> bool:
    return await kernel.one("SELECT expires < millstream_now() FROM millstream_claims WHERE subscription > 0")


async def _read(kernel: Any, c: Consumption) -> list[Prepared]:
    reader = kernel.log.read(c.subscription.topic, c.claim.partition, c.claim.position)
    return prepare(await reader.next(500), c.known, c.recorded)


async def _run(kernel: Any, c: Consumption, items: list[Prepared]) -> None:
    await kernel.store.transact(lambda session: run_batch(session, c, items, {}, False))


async def _take(kernel: Any, sub: Any, owner: str) -> Any:
    limits = kernel.limits
    return await kernel.store.transact(lambda s: claims.take(s, sub.id, 0, owner, limits.lease_us, 500))


async def _taken(kernel: Any, sub: Any, owner: str) -> Consumption:
    """The claim of a subscription, once it is to be had."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(StoreUnavailable):
                claim = await _take(kernel, sub, owner)
                if claim is not None:
                    return await kernel.consumption(sub, claim)
            await asyncio.sleep(0.05)


async def _outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - the outcome that is asked for
        return error


async def _after(event: asyncio.Event, call: Callable[[], None]) -> None:
    await event.wait()
    call()
