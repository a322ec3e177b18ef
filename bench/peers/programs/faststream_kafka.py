"""FastStream on Kafka: acks from all replicas, a consumer group; one event at a time, or with PEER_BATCH a batch per handler call."""

# pyright: reportMissingImports=false
# (the peer lives in .venv-peers)

from __future__ import annotations

import logging
import os

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker

from ..workload import IN_FLIGHT, PARTITIONS, Task, body, engine, key_of, loop_run, main, topic
from .rows import open_pool, produce_dual, write_effect, write_effects

SERVERS = engine("kafka").removeprefix("kafka://").partition("?")[0]
BATCH = int(os.environ.get("PEER_BATCH", "0"))


def _broker() -> KafkaBroker:
    return KafkaBroker(SERVERS, acks="all", enable_idempotence=True, log_level=logging.DEBUG)


async def _provision() -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=SERVERS)
    await admin.start()
    await admin.create_topics([NewTopic(topic(), num_partitions=PARTITIONS, replication_factor=1)])
    await admin.close()


async def _produce(task: Task) -> None:
    async with _broker() as broker:
        await produce_dual(task, lambda n: broker.publish(body(n), topic(), key=key_of(n).encode()))


async def _work() -> None:
    broker = _broker()
    pool = await open_pool()
    group = {"group_id": topic(), "auto_offset_reset": "earliest", "ack_policy": AckPolicy.ACK}
    if BATCH:

        @broker.subscriber(topic(), batch=True, max_records=BATCH, **group)
        async def effects(events: list[dict]) -> None:
            await write_effects(pool, [(event["key"], event["n"]) for event in events])

    else:

        @broker.subscriber(topic(), max_workers=IN_FLIGHT, **group)
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
