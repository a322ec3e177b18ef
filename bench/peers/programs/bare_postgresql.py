"""The ceiling on PostgreSQL alone: a queue table, plain asyncpg, one worker that takes what is there in one transaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import asyncpg

from ..workload import BUSINESS, POOL, Task, body, engine, key_of, loop_run, main, produce

BATCH = 500
IDLE_SECONDS = 0.001
TABLE = "CREATE TABLE queue (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL)"
ENQUEUE = "INSERT INTO queue (body) VALUES ($1)"
TAKE = "DELETE FROM queue WHERE id IN (SELECT id FROM queue ORDER BY id LIMIT $1) RETURNING id, body"
EFFECTS = "INSERT INTO effects (key, n) SELECT * FROM unnest($1::text[], $2::bigint[])"


async def _provision() -> None:
    connection = await asyncpg.connect(engine("postgresql"))
    await connection.execute(TABLE)
    await connection.close()


async def _produce(task: Task) -> None:
    async with asyncpg.create_pool(engine("postgresql"), min_size=POOL, max_size=POOL) as pool:

        async def publish(numbers: Sequence[int]) -> None:
            async with pool.acquire() as connection, connection.transaction():
                if len(numbers) == 1:
                    (n,) = numbers
                    await connection.execute(BUSINESS, key_of(n), n)
                    await connection.execute(ENQUEUE, json.dumps(body(n)).encode())
                else:
                    await connection.executemany(BUSINESS, [(key_of(n), n) for n in numbers])
                    await connection.executemany(ENQUEUE, [(json.dumps(body(n)).encode(),) for n in numbers])

        await produce(task, publish)


async def _work() -> None:
    connection = await asyncpg.connect(engine("postgresql"))
    while True:
        async with connection.transaction():
            rows = await connection.fetch(TAKE, BATCH)
            if rows:
                events = [json.loads(row["body"]) for row in sorted(rows)]
                await connection.execute(EFFECTS, [e["key"] for e in events], [e["n"] for e in events])
        if not rows:
            await asyncio.sleep(IDLE_SECONDS)


if __name__ == "__main__":
    main(
        {
            "provision": lambda _: loop_run(_provision()),
            "produce": lambda task: loop_run(_produce(task)),
            "work": lambda _: loop_run(_work()),
        }
    )
