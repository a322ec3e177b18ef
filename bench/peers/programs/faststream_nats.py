"""FastStream on JetStream: published with an acknowledgement, a durable pull consumer, acknowledged after the handler."""

# pyright: reportMissingImports=false
# (the peer lives in .venv-peers)

from __future__ import annotations

import logging

import nats
from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from nats.js.api import ConsumerConfig, StorageType, StreamConfig

from ..workload import IN_FLIGHT, REDELIVERY_SECONDS, Task, body, engine, loop_run, main, topic
from .rows import open_pool, produce_dual, write_effect

SUBJECT = f"{topic()}.event"
URL = engine("nats").partition("?")[0]


def _broker() -> NatsBroker:
    return NatsBroker(URL, log_level=logging.DEBUG)


async def _provision() -> None:
    client = await nats.connect(URL)
    config = StreamConfig(name=topic(), subjects=[f"{topic()}.>"], storage=StorageType.FILE)
    await client.jetstream().add_stream(config)
    await client.close()


async def _produce(task: Task) -> None:
    async with _broker() as broker:
        await produce_dual(task, lambda n: broker.publish(body(n), SUBJECT, stream=topic()))


async def _work() -> None:
    broker = _broker()
    pool = await open_pool()

    @broker.subscriber(
        SUBJECT,
        stream=JStream(topic(), declare=False),
        durable="worker",
        config=ConsumerConfig(ack_wait=REDELIVERY_SECONDS),
        pull_sub=PullSub(batch_size=IN_FLIGHT),
        max_workers=IN_FLIGHT,
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
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
