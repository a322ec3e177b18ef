"""FastStream on a RabbitMQ quorum queue: publisher confirms, prefetch, acknowledged after the handler."""

# pyright: reportMissingImports=false
# (the peer lives in .venv-peers)

from __future__ import annotations

import logging

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from ..workload import IN_FLIGHT, Task, body, engine, loop_run, main, topic
from .rows import open_pool, produce_dual, write_effect

QUEUE = RabbitQueue(topic(), queue_type=QueueType.QUORUM, durable=True)


def _broker() -> RabbitBroker:
    url = engine("rabbitmq").replace("rabbitmq://", "amqp://").partition("?")[0]
    return RabbitBroker(url, default_channel=Channel(prefetch_count=IN_FLIGHT), log_level=logging.DEBUG)


async def _provision() -> None:
    async with _broker() as broker:
        await broker.declare_queue(QUEUE)


async def _produce(task: Task) -> None:
    async with _broker() as broker:
        await produce_dual(task, lambda n: broker.publish(body(n), QUEUE, persist=True))


async def _work() -> None:
    broker = _broker()
    pool = await open_pool()

    @broker.subscriber(QUEUE, ack_policy=AckPolicy.NACK_ON_ERROR)
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
