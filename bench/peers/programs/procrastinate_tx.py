"""Procrastinate: the job is deferred on the connection of the business transaction; stalled jobs are retried as its docs say.

With PEER_LOCK each job takes its event's key as lock: jobs of one key run one after another.
"""

# pyright: reportMissingImports=false
# (the peer lives in .venv-peers)

from __future__ import annotations

import os
from collections.abc import Sequence

import procrastinate
from psycopg_pool import AsyncConnectionPool

from ..workload import IN_FLIGHT, POOL, REDELIVERY_SECONDS, Task, body, engine, key_of, loop_run, main, produce

URL = engine("postgresql")
LOCK = bool(os.environ.get("PEER_LOCK"))
BUSINESS = "INSERT INTO business (key, n) VALUES (%s, %s)"
EFFECT = "INSERT INTO effects (key, n) VALUES (%s, %s)"

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL, min_size=POOL, max_size=POOL))
pool = AsyncConnectionPool(URL, min_size=POOL, max_size=POOL, open=False, kwargs={"autocommit": True})


@app.task(queue="events", name="effect")
async def effect(key: str, n: int, **_rest: object) -> None:
    async with pool.connection() as connection:
        await connection.execute(EFFECT, (key, n))


@app.periodic(cron="*/5 * * * * *")
@app.task(queue="stalled", queueing_lock="retry-stalled", pass_context=True, name="retry-stalled")
async def retry_stalled(_context: procrastinate.JobContext, *, timestamp: int) -> None:
    assert timestamp > 0
    for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=REDELIVERY_SECONDS):
        await app.job_manager.retry_job(job)


async def _provision() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def _produce(task: Task) -> None:
    async with app.open_async(), pool:

        async def publish(numbers: Sequence[int]) -> None:
            async with pool.connection() as connection, connection.transaction():
                for n in numbers:
                    await connection.execute(BUSINESS, (key_of(n), n))
                    lock = key_of(n) if LOCK else None
                    await app.configure_task("effect", queue="events", connection=connection, lock=lock).defer_async(
                        **body(n)
                    )

        await produce(task, publish)


async def _work() -> None:
    async with app.open_async(), pool:
        await app.run_worker_async(
            concurrency=IN_FLIGHT,
            update_heartbeat_interval=REDELIVERY_SECONDS / 3,
            stalled_worker_timeout=REDELIVERY_SECONDS,
        )


if __name__ == "__main__":
    main(
        {
            "provision": lambda _: loop_run(_provision()),
            "produce": lambda task: loop_run(_produce(task)),
            "work": lambda _: loop_run(_work()),
        }
    )
