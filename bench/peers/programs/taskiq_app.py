"""Taskiq on JetStream or Redis Streams, acknowledged after the task. Its worker is Taskiq's own command."""

# pyright: reportMissingImports=false, reportFunctionMemberAccess=false
# (the peer lives in .venv-peers, so its decorators are unknown)

from __future__ import annotations

import os

from nats.js.api import ConsumerConfig, StorageType, StreamConfig
from taskiq import AsyncBroker, TaskiqEvents
from taskiq_nats import PullBasedJetStreamBroker
from taskiq_redis import RedisStreamBroker

from ..workload import REDELIVERY_SECONDS, Task, body, engine, loop_run, main, topic
from .rows import open_pool, produce_dual, write_effect


def _open_broker() -> AsyncBroker:
    if os.environ["PEER_BROKER"] == "nats":
        # One message at a time, its default: it would wait until a greater batch is whole. And no push consumer: a producer
        # would join the group, and let the messages that it gets lie until they are delivered again.
        return PullBasedJetStreamBroker(
            engine("nats").partition("?")[0],
            subject=f"{topic()}.event",
            stream_name=topic(),
            stream_config=StreamConfig(name=topic(), subjects=[f"{topic()}.>"], storage=StorageType.FILE),
            consumer_config=ConsumerConfig(durable_name="worker", ack_wait=REDELIVERY_SECONDS),
            durable="worker",
        )
    return RedisStreamBroker(
        engine("redis").partition("?")[0],
        queue_name=topic(),
        consumer_id="0",
        idle_timeout=REDELIVERY_SECONDS * 1000,
        unacknowledged_lock_timeout=REDELIVERY_SECONDS,
    )


broker = _open_broker()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def connect(state) -> None:
    state.pool = await open_pool()


@broker.task(task_name="effect")
async def effect(event: dict) -> None:
    await write_effect(broker.state.pool, event["key"], event["n"])


async def _produce(task: Task) -> None:
    await broker.startup()
    await produce_dual(task, lambda n: effect.kiq(body(n)))
    await broker.shutdown()


if __name__ == "__main__":
    main({"produce": lambda task: loop_run(_produce(task))})
