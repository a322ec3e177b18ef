"""The ceiling on NATS: an outbox, a relay that publishes 500 rows side by side, a pull consumer with an inbox, acks after commit.

Order after a crash is not kept: what was delivered and not acknowledged comes back after `ack_wait`, behind what came later.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import asyncpg
import nats
from nats.js.api import ConsumerConfig, StorageType, StreamConfig

from ..workload import BUSINESS, POOL, REDELIVERY_SECONDS, Task, body, engine, key_of, loop_run, main, produce, topic

BATCH = 500
IDLE_SECONDS = 0.001
TABLES = """
CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE inbox (id bigint PRIMARY KEY);
"""
ENQUEUE = "INSERT INTO outbox (body) VALUES ($1)"
OLDEST = "SELECT id, body FROM outbox ORDER BY id LIMIT $1"
EFFECTS = """
WITH arrived AS (SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[]) WITH ORDINALITY AS a (id, key, n, place)),
     fresh AS (INSERT INTO inbox (id) SELECT id FROM arrived ON CONFLICT DO NOTHING RETURNING id)
INSERT INTO effects (key, n) SELECT key, n FROM arrived JOIN fresh USING (id) ORDER BY place
"""


async def _provision() -> None:
    connection = await asyncpg.connect(engine("postgresql"))
    await connection.execute(TABLES)
    await connection.close()
    client = await nats.connect(engine("nats").partition("?")[0])
    stream = StreamConfig(name=topic(), subjects=[f"{topic()}.>"], storage=StorageType.FILE)
    await client.jetstream().add_stream(stream)
    await client.close()


async def _relay(pool: asyncpg.Pool) -> None:
    """Forward what is in the outbox, oldest first, for as long as this task lives."""
    client = await nats.connect(engine("nats").partition("?")[0])
    js = client.jetstream()
    while True:
        rows = await pool.fetch(OLDEST, BATCH)
        if not rows:
            await asyncio.sleep(IDLE_SECONDS)
            continue
        await asyncio.gather(
            *(js.publish(f"{topic()}.event", row["body"], headers={"id": str(row["id"])}) for row in rows)
        )
        await pool.execute("DELETE FROM outbox WHERE id = ANY($1)", [row["id"] for row in rows])


async def _produce(task: Task, relaying: bool = True) -> None:
    async with asyncpg.create_pool(engine("postgresql"), min_size=POOL, max_size=POOL) as pool:

        async def publish(numbers: Sequence[int]) -> None:
            async with pool.acquire() as connection, connection.transaction():
                for n in numbers:
                    await connection.execute(BUSINESS, key_of(n), n)
                    await connection.execute(ENQUEUE, json.dumps(body(n)).encode())

        async def relayed() -> None:
            while await pool.fetch("SELECT 1 FROM outbox LIMIT 1"):  # noqa: ASYNC110 - a condition in the database
                await asyncio.sleep(0.01)

        if relaying:
            relay = asyncio.get_running_loop().create_task(_relay(pool))
            await produce(task, publish, relayed)
            relay.cancel()
        else:
            await produce(task, publish)


async def _only_relay() -> None:
    async with asyncpg.create_pool(engine("postgresql"), min_size=1, max_size=2) as pool:
        await _relay(pool)


async def _work() -> None:
    connection = await asyncpg.connect(engine("postgresql"))
    client = await nats.connect(engine("nats").partition("?")[0])
    js = client.jetstream()
    consumer = await js.pull_subscribe(
        f"{topic()}.>",
        durable="worker",
        stream=topic(),
        config=ConsumerConfig(ack_wait=REDELIVERY_SECONDS, max_ack_pending=10 * BATCH),
    )
    while True:
        try:
            messages = await consumer.fetch(BATCH, timeout=5)
        except TimeoutError:  # its own and that of asyncio
            continue
        events = [json.loads(message.data) for message in messages]
        ids = [int((message.headers or {})["id"]) for message in messages]
        await connection.execute(EFFECTS, ids, [e["key"] for e in events], [e["n"] for e in events])
        for message in messages:
            await message.ack()


if __name__ == "__main__":
    main(
        {
            "provision": lambda _: loop_run(_provision()),
            "fill": lambda task: loop_run(_produce(task, relaying=False)),
            "produce": lambda task: loop_run(_produce(task)),
            "relay": lambda _: loop_run(_only_relay()),
            "work": lambda _: loop_run(_work()),
        }
    )
