"""A holder that only paused: longer than its lease, so that another one took over, and with a batch in its hand.

Its transaction, when it comes at last, must change nothing (rule C1). Where the inbox knows a message this could go
unnoticed; a message that cannot be read has no identity, and shows it: it becomes one dead letter, not two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from bank import Moved, till
from millstream.clock import SystemClock
from millstream.delivery.consumption import Limits
from millstream.message import Message, Record, encode_message, event_type, format_time
from millstream.ports.store import StoreCapabilities
from millstream.runtime.runtime import Composition, Runtime
from millstream.stores.sqlite import SqliteStore
from millstream.testing.failpoints import Failpoints, FailpointTransport
from millstream.testing.removals.consumption import NoEpochCheck
from millstream.testing.removals.removal import INTACT, Removal
from millstream.testing.removals.through import StoreThrough, Work
from millstream.transports.log import LogTransport

LEASE = 0.3
PATIENCE = 15.0


class Shared(StoreThrough):
    """One open store for two runtimes, as if their processes shared a server. Frozen, its transactions wait."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.waiting = 0

    @property
    def capabilities(self) -> StoreCapabilities:
        return msgspec.structs.replace(self.inner.capabilities, several_processes=True)

    async def transact(self, work: Work) -> Any:
        self.waiting += 1
        try:
            await self.thawed.wait()
            return await self.inner.transact(work)
        finally:
            self.waiting -= 1

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *error: object) -> None: ...


class SharedLog(FailpointTransport):
    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None: ...


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, f"it did not come true: {what}"
        await asyncio.sleep(0.005)


def moved(n: int) -> Record:
    declared = event_type(Moved)
    message = Message(
        f"m{n}", "/elsewhere", declared.name, time=format_time(SystemClock().now_us()), subject="ann",
        data=msgspec.Raw(declared.encode(Moved("ann", n, 100))), dataversion=declared.version,
    )  # fmt: skip
    return Record(encode_message(message), "ann")


async def pause_and_take_over(folder: Path, removal: Removal) -> tuple[int, list[int]]:
    """How many dead letters one unreadable record became, and the numbers that were booked."""
    async with AsyncExitStack() as stack:
        real = await stack.enter_async_context(SqliteStore(folder / "till.db"))
        log = await stack.enter_async_context(LogTransport(folder / "log.db"))
        points = Failpoints()

        async def start(store: Shared, name: str) -> None:
            composition = Composition(
                open_store=lambda service: removal.store(store, service),  # type: ignore[arg-type]  # it passes the store on
                transport=SharedLog(log, points, name),
                data=folder,
                limits=Limits(lease_seconds=LEASE),
                partitions=1,
                settings=lambda _: {"points": points},
            )
            runtime = await stack.enter_async_context(Runtime([till], composition))

            async def ready() -> bool:
                return runtime.ready

            await until(ready, f"{name} is ready")

        async def holder_of_moves() -> str | None:
            rows = await real.query(
                "SELECT c.owner FROM millstream_claims c JOIN millstream_subscriptions s ON s.id = c.subscription "
                "WHERE s.name = 'book'"
            )
            return rows[0][0] if rows else None

        async def held() -> bool:
            return await holder_of_moves() is not None

        first, second = Shared(real), Shared(real)
        await start(first, "first")
        await until(held, "the first holds the partition")
        first.thawed.clear()
        await log.publish("moves", 0, [moved(1), Record(b"no envelope", None), moved(2)])

        async def read() -> bool:
            return points.counts["first: after read"] > 0

        await until(read, "the first has a batch in its hand")
        zombie = await holder_of_moves()
        await start(second, "second")

        async def taken_over() -> bool:
            rows = await real.query("SELECT COUNT(*) FROM booked")
            return await holder_of_moves() not in (None, zombie) and rows[0][0] == 2

        await until(taken_over, "the second has taken over and done the work")
        late = first.waiting
        first.thawed.set()

        async def thawed() -> bool:
            return first.waiting < late and points.counts["second: after mark"] > 0

        await until(thawed, "the first has written what it had in hand, or was refused")
        await real.transact(_nothing)  # behind everything that was queued before it
        letters = await real.query("SELECT COUNT(*) FROM millstream_dead_letters")
        return letters[0][0], [row[0] for row in await real.query("SELECT n FROM booked ORDER BY id")]


async def _nothing(session: Any) -> None:
    await session.fetch("SELECT 1")


async def test_a_holder_that_was_replaced_while_it_paused_changes_nothing(tmp_path: Path) -> None:
    assert await pause_and_take_over(tmp_path, INTACT) == (1, [1, 2])


async def test_without_the_epoch_check_its_late_transaction_is_caught(tmp_path: Path) -> None:
    letters, _ = await pause_and_take_over(tmp_path, NoEpochCheck())
    assert letters == 2
