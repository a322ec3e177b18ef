"""FastStream on Redis Streams: a consumer group; a second subscriber claims what a dead worker left, as its docs say."""

# pyright: reportMissingImports=false
# (the peer lives in .venv-peers)

from __future__ import annotations

import logging
import os

from faststream import AckPolicy, FastStream
from faststream.redis import RedisBroker, StreamSub

from ..workload import IN_FLIGHT, REDELIVERY_SECONDS, Task, body, engine, loop_run, main, topic
from .rows import open_pool, produce_dual, write_effect

GROUP = "workers"


def _broker() -> RedisBroker:
    return RedisBroker(engine("redis").partition("?")[0], log_level=logging.DEBUG)


async def _provision() -> None:
    async with _broker() as broker:
        await broker._connection.xgroup_create(topic(), GROUP, id="0", mkstream=True)


async def _produce(task: Task) -> None:
    async with _broker() as broker:
        await produce_dual(task, lambda n: broker.publish(body(n), stream=topic()))


async def _work() -> None:
    broker = _broker()
    pool = await open_pool()
    me = f"worker-{os.getpid()}"
    fresh = StreamSub(topic(), group=GROUP, consumer=me, last_id=">", max_records=IN_FLIGHT, polling_interval=100)
    left = StreamSub(
        topic(),
        group=GROUP,
        consumer=me,
        min_idle_time=REDELIVERY_SECONDS * 1000,
        max_records=IN_FLIGHT,
        polling_interval=1000,
    )

    @broker.subscriber(stream=fresh, max_workers=IN_FLIGHT, ack_policy=AckPolicy.NACK_ON_ERROR)
    @broker.subscriber(stream=left, ack_policy=AckPolicy.NACK_ON_ERROR)
    async def effect(event: dict) -> None:
        await write_effect(pool, event["key"], event["n"])

    await FastStream(broker).run(log_level=logging.WARNING)


if __name__ == "__main__":
    main(
        {
            "provision": lambda _: loop_run(_provision()),
            "produce": lambda task: loop_run(_produce(task)),
            "work": lambda _: loop_run(_work()),
        }
    )
