"""PgQueuer: the job is enqueued on the connection of the business transaction; a pool of connections works."""

# pyright: reportMissingImports=false
# (the peer lives in .venv-peers)

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
from pgqueuer import Job, PgQueuer, Queries

from ..workload import (
    BUSINESS,
    EFFECT,
    IN_FLIGHT,
    REDELIVERY_SECONDS,
    Task,
    body,
    engine,
    key_of,
    loop_run,
    main,
    produce,
)
from .rows import open_pool

BATCH = int(os.environ.get("PEER_BATCH", str(IN_FLIGHT)))


async def _provision() -> None:
    connection = await asyncpg.connect(engine("postgresql"))
    await Queries.from_asyncpg_connection(connection).install()
    await connection.close()


async def _produce(task: Task) -> None:
    async with open_pool() as pool:

        async def publish(numbers: Sequence[int]) -> None:
            async with pool.acquire() as connection, connection.transaction():
                queries = Queries.from_asyncpg_connection(connection)
                if len(numbers) == 1:
                    (n,) = numbers
                    await connection.execute(BUSINESS, key_of(n), n)
                    await queries.enqueue("effect", json.dumps(body(n)).encode())
                else:
                    await connection.executemany(BUSINESS, [(key_of(n), n) for n in numbers])
                    bodies: list[bytes | None] = [json.dumps(body(n)).encode() for n in numbers]
                    await queries.enqueue(["effect"] * len(bodies), bodies, [0] * len(bodies))

        await produce(task, publish)


async def _work() -> None:
    pool = await open_pool()
    app = PgQueuer.from_asyncpg_pool(pool)

    @app.entrypoint("effect")
    async def effect(job: Job) -> None:
        event = json.loads(job.payload or b"")
        await pool.execute(EFFECT, event["key"], event["n"])

    await app.run(
        batch_size=BATCH, max_concurrent_tasks=2 * BATCH, heartbeat_timeout=timedelta(seconds=REDELIVERY_SECONDS)
    )


if __name__ == "__main__":
    main(
        {
            "provision": lambda _: loop_run(_provision()),
            "produce": lambda task: loop_run(_produce(task)),
            "work": lambda _: loop_run(_work()),
        }
    )
