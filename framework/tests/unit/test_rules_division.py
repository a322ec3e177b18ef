"""Rule C10 with two whole workers: partitions change hands while messages flow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from millstream import Event
from millstream.delivery.pacing import Pacer
from millstream.delivery.worker import Engines, Worker
from millstream.ids import SystemEntropy
from millstream.ports.instrumentation import Silent


class Thing(Event, topic="things", key="key"):
    key: str
    value: int = 0


async def apply(event: Thing, tx: Any) -> None:
    await tx.execute("INSERT INTO applied (key, value) VALUES (?, ?)", event.key, event.value)


async def test_c10_a_worker_gives_back_what_belongs_to_one_that_came_later(kernel: Any) -> None:
    """Nothing is lost or doubled while half of the partitions change hands under load."""
    registered = await kernel.subscribe(apply, Thing, partitions=4)
    engines = Engines(
        kernel.store,
        kernel.log,
        kernel.clock,
        SystemEntropy(),
        kernel.ids,
        Silent(),
        Pacer(kernel.clock),
        kernel.limits,
    )
    first, second = (Worker("shop", [registered], [], engines, name) for name in ("a", "b"))

    async def holders() -> set[tuple[str | None, int]]:
        rows = await kernel.store.query(
            "SELECT owner, COUNT(*) FROM millstream_claims WHERE subscription = ? GROUP BY owner", registered.id
        )
        return {(owner, count) for owner, count in rows}

    async def until(condition: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(2_000):
            if await condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"it did not come about; claims are with {await holders()}")

    async def reaches(wanted: set[tuple[str | None, int]]) -> bool:
        return await holders() == wanted

    async def gave_back(count: int) -> bool:
        return sum(number for owner, number in await holders() if owner != "a") == count

    async with asyncio.TaskGroup() as group:
        group.create_task(first.run())
        await until(lambda: reaches({("a", 4)}))
        group.create_task(second.run())
        await until(lambda: _is_ready(second))
        for number in range(40):
            await kernel.append(Thing(f"k{number}", number), partition=number % 4)
        await kernel.clock.advance(kernel.limits.lease_seconds / 3)  # both look at the claims again
        await until(lambda: gave_back(2))
        await kernel.clock.advance(kernel.limits.lease_seconds / 3)
        await until(lambda: reaches({("a", 2), ("b", 2)}))
        await until(lambda: _all_applied(kernel, 40))
        for worker in (first, second):
            await worker.stop_consuming(1.0)
            await worker.stop()
    assert await holders() == {(None, 4)}


async def _is_ready(worker: Worker) -> bool:
    return worker.ready


async def _all_applied(kernel: Any, count: int) -> bool:
    rows = await kernel.store.query("SELECT COUNT(*) FROM applied")
    assert rows[0][0] <= count, "a message was applied twice"
    return rows[0][0] == count
