"""Queues of somebody else on running engines, and plain clients that use them and know nothing of Millstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import aio_pika
import nats
import nats.js.api
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage] - this is where its documentation has them
from millstream.ports.intake import IntakeSource
from millstream.runtime.adapters import open_intake
from millstream.testing.engines.kafka import KafkaServer
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.rabbitmq import RabbitmqServer
from millstream.testing.engines.server import EngineServer
from taking_in import PATIENCE_SECONDS, context

PREFETCH = 20


class Sent(NamedTuple):
    """What a foreign client sends. attributes: headers of CloudEvents in binary mode, without prefix."""

    body: bytes
    content_type: str | None = None
    attributes: Mapping[str, str] = MappingProxyType({})


def orders(numbers: Sequence[int]) -> list[Sent]:
    return [Sent(b'{"order": "o-%d", "total": %d}' % (n % 7, n)) for n in numbers]


class Foreign:
    """A queue of somebody else on a running engine, used by a client that knows nothing of Millstream."""

    settles_seconds = 0.0
    """How old it must be before its engine may be killed."""

    def __init__(self, server: EngineServer, name: str, *, impatient: bool = False) -> None:
        self.server = server
        self.name = name
        self.impatient = impatient
        """Whether the engine takes a client for dead after a second. Then a busy machine makes it deliver again, too."""

    @property
    def url(self) -> str:
        """What an operator writes into `[intakes]`."""
        raise NotImplementedError

    async def make(self) -> None:
        """Make the queue."""
        raise NotImplementedError

    async def send(self, messages: Sequence[Sent]) -> None:
        """Return once the engine has confirmed all of them."""
        raise NotImplementedError

    async def drop(self) -> None:
        """Delete the queue with what is in it."""
        raise NotImplementedError

    async def open(self) -> int:
        """How many messages are not acknowledged, delivered or not."""
        raise NotImplementedError

    def source(self, **options: object) -> IntakeSource:
        extra = "".join(f"&{name}={value}" for name, value in options.items())
        return open_intake(self.url + extra, context())


class RabbitmqQueue(Foreign):
    server: RabbitmqServer
    # RabbitMQ 3 writes a new quorum queue's Raft term through every five seconds, and alone on its node it elects no leader
    # for one that it has forgotten (rabbitmq-server issue 10070).
    settles_seconds = 7.0

    @property
    def url(self) -> str:
        patience = "&timeout=3s&heartbeat=2s" if self.impatient else ""
        return f"{self.server.url}?queue={self.name}&prefetch={PREFETCH}{patience}"

    async def make(self) -> None:
        async with await aio_pika.connect(self.server.amqp_url) as connection:
            channel = await connection.channel()
            await channel.declare_queue(self.name, durable=True, arguments={"x-queue-type": "quorum"})

    async def send(self, messages: Sequence[Sent]) -> None:
        async with await aio_pika.connect(self.server.amqp_url) as connection:
            channel = await connection.channel()
            for message in messages:
                await channel.default_exchange.publish(
                    aio_pika.Message(
                        message.body,
                        content_type=message.content_type,
                        message_id=str(uuid4()),
                        headers={f"cloudEvents:{name}": value for name, value in message.attributes.items()},
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    ),
                    self.name,
                )

    async def ready(self) -> int:
        """How many messages wait in the queue: what is delivered and not acknowledged does not count."""
        async with await aio_pika.connect(self.server.amqp_url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(self.name, passive=True)
            return queue.declaration_result.message_count or 0

    async def open(self) -> int:
        return await self.ready()


class NatsQueue(Foreign):
    server: NatsServer

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.server.port}?stream={self.name}&consumer=millstream&prefetch={PREFETCH}"

    async def make(self, retention: str = nats.js.api.RetentionPolicy.WORK_QUEUE, **settings: Any) -> None:
        async with self.client() as js:
            await js.add_stream(name=self.name, subjects=[f"{self.name}.>"], retention=retention)
            wait = 1.0 if self.impatient else 30.0
            explicit = {"durable_name": "millstream", "ack_policy": nats.js.api.AckPolicy.EXPLICIT, "ack_wait": wait}
            await js.add_consumer(self.name, nats.js.api.ConsumerConfig(**{**explicit, **settings}))

    async def send(self, messages: Sequence[Sent]) -> None:
        async with self.client() as js:
            for message in messages:
                headers = {f"ce-{name}": value for name, value in message.attributes.items()}
                if message.content_type is not None:
                    headers["Content-Type"] = message.content_type
                await js.publish(f"{self.name}.orders", message.body, headers=headers or None)

    async def open(self) -> int:
        async with self.client() as js:
            return (await js.stream_info(self.name)).state.messages

    async def drop(self) -> None:
        async with self.client() as js:
            await js.delete_stream(self.name)

    async def info(self) -> nats.js.api.ConsumerInfo:
        async with self.client() as js:
            return await js.consumer_info(self.name, "millstream")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        connection = await nats.connect(f"nats://127.0.0.1:{self.server.port}")
        try:
            yield connection.jetstream()
        finally:
            await connection.close()


class KafkaTopic(Foreign):
    server: KafkaServer

    @property
    def url(self) -> str:
        session = "1s" if self.impatient else "10s"
        return f"{self.server.url}?topic={self.name}&group={self.name}-intake&session={session}&timeout=5s"

    async def make(self, partitions: int = 3) -> None:
        admin = AdminClient({"bootstrap.servers": self.server.bootstrap, "log_level": 0})
        made = admin.create_topics([NewTopic(self.name, partitions, 1)])
        await asyncio.wrap_future(made[self.name])

    async def drop(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.server.bootstrap, "log_level": 0})
        await asyncio.wrap_future(admin.delete_topics([self.name])[self.name])
        await asyncio.wrap_future(admin.delete_consumer_groups([f"{self.name}-intake"])[f"{self.name}-intake"])

    async def send(self, messages: Sequence[Sent]) -> None:
        await asyncio.to_thread(self._send, messages)

    def _send(self, messages: Sequence[Sent]) -> None:
        # Somebody else's idea of a partitioner: keys mean nothing to it.
        producer = Producer(
            {"bootstrap.servers": self.server.bootstrap, "partitioner": "random", "acks": "all", "log_level": 0}
        )
        for message in messages:
            headers: dict[str, str | bytes | None] = {f"ce_{k}": value for k, value in message.attributes.items()}
            if message.content_type is not None:
                headers["content-type"] = message.content_type
            producer.produce(self.name, message.body, headers=headers)
        assert producer.flush(PATIENCE_SECONDS) == 0

    async def open(self) -> int:
        return await asyncio.to_thread(self._lag)

    def _lag(self) -> int:
        consumer = Consumer(
            {"bootstrap.servers": self.server.bootstrap, "group.id": f"{self.name}-intake", "log_level": 0}
        )
        try:
            count = len(consumer.list_topics(self.name, timeout=10).topics[self.name].partitions)
            places = consumer.committed([TopicPartition(self.name, n) for n in range(count)], timeout=10)
            return sum(consumer.get_watermark_offsets(place, timeout=10)[1] - max(0, place.offset) for place in places)
        finally:
            consumer.close()


SERVERS: dict[str, Callable[[Path], EngineServer]] = {
    "rabbitmq": RabbitmqServer,
    # A member of a group that died is to be noticed in a second, not in six.
    "kafka": lambda folder: KafkaServer(folder, {"group.min.session.timeout.ms": "500"}),
    "nats": NatsServer,
}
QUEUES: dict[str, type[Foreign]] = {"rabbitmq": RabbitmqQueue, "kafka": KafkaTopic, "nats": NatsQueue}
