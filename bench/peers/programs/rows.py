"""Business rows and effects by asyncpg, for the peers that leave the database to their user."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from ..workload import BUSINESS, EFFECT, POOL, Task, engine, key_of, produce

__all__ = ["open_pool", "produce_dual", "write_effect", "write_effects"]


def open_pool() -> asyncpg.Pool:
    """To be awaited, or entered."""
    return asyncpg.create_pool(engine("postgresql"), min_size=POOL, max_size=POOL)


async def produce_dual(task: Task, publish: Callable[[int], Awaitable[object]]) -> None:
    """For peers without an outbox: the row is committed, then its event published and confirmed. A crash in between loses it."""
    async with open_pool() as pool:

        async def unit(numbers: Sequence[int]) -> None:
            for n in numbers:
                await pool.execute(BUSINESS, key_of(n), n)
                await publish(n)

        await produce(task, unit)


async def write_effect(pool: asyncpg.Pool, key: str, n: int) -> None:
    """The effect of one event, in a transaction of its own."""
    await pool.execute(EFFECT, key, n)


async def write_effects(pool: asyncpg.Pool, events: Sequence[tuple[str, int]]) -> None:
    """Those of a batch, in one transaction."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.executemany(EFFECT, events)
