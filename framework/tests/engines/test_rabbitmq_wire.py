"""What lies in RabbitMQ's queues is read and written by clients that know nothing of Millstream: aio-pika, and the official
CloudEvents library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from millstream.message import Message, Record, decode_message, encode_message
from millstream.ports.transport import Transport
from millstream.testing.conformance.transport_case import everything, within
from millstream.testing.engines.rabbitmq import RabbitmqServer
from millstream.transports.rabbitmq import RabbitmqTransport
from millstream.transports.rabbitmq.connection import Login


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitmqServer]:
    with RabbitmqServer(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
async def log(server: RabbitmqServer) -> AsyncIterator[Transport]:
    async with RabbitmqTransport([("127.0.0.1", server.port)], login=Login("guest", "guest", "/", None)) as log:
        yield log


@pytest.fixture
async def plain(server: RabbitmqServer) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel of an ordinary client."""
    async with await aio_pika.connect(server.amqp_url) as connection:
        yield await connection.channel()


@pytest.fixture
async def topic(log: Transport) -> str:
    topic = f"orders-{uuid4().hex}"
    await log.provision(topic, 1)
    return topic


EVENT = CloudEvent(
    attributes={
        "id": "e-1",
        "source": "/shop/größe",
        "type": "order.placed",
        "specversion": "1.0",
        "subject": "ключ-🧾",
        "time": datetime(2026, 11, 21, 15, 4, 5, 678000, tzinfo=UTC),
        "datacontenttype": "application/json",
        "tenant": "acme",
    },
    data={"total": 12, "note": "日本語"},
)


async def test_a_plain_client_reads_our_records_as_structured_cloudevents(
    log: Transport, topic: str, plain: aio_pika.abc.AbstractChannel
) -> None:
    ours = Message(
        id="m-1", source="orders", type="OrderPlaced", time="2026-11-21T15:04:05.000006Z", subject="schlüssel"
    )
    await log.publish(topic, 0, [Record(encode_message(ours), ours.subject), Record(b"{}", "")])
    await plain.set_qos(prefetch_count=10)
    queue = await plain.get_queue(f"{topic}.0")
    found: list[aio_pika.abc.AbstractIncomingMessage] = []
    async with queue.iterator(arguments={"x-stream-offset": "first"}, timeout=10) as messages:
        async for message in messages:
            found.append(message)
            await message.ack()
            if len(found) == 3:
                break
    opening, first, second = found
    assert first.content_type == "application/cloudevents+json; charset=utf-8"
    assert first.headers["millstream-key"] == "schlüssel"
    event = rabbitmq.from_rabbitmq_event(_foreign(first))
    assert (event.get_id(), event.get_source(), event.get_subject()) == ("m-1", "orders", "schlüssel")
    assert event.get_time() == datetime(2026, 11, 21, 15, 4, 5, 6, tzinfo=UTC)
    assert second.headers["millstream-key"] == ""
    about = rabbitmq.from_rabbitmq_event(_foreign(opening))
    assert about.get_type() == "millstream.partition.opened"
    assert about.get_data() == {"topic": topic, "partitions": 1}


async def test_a_structured_event_of_a_plain_client_arrives(
    log: Transport, topic: str, plain: aio_pika.abc.AbstractChannel
) -> None:
    sent = rabbitmq.to_structured_event(EVENT)
    await _send(plain, topic, sent.body, sent.content_type, sent.headers)
    (record,) = await everything(log, topic, 0)
    assert record.key == "ключ-🧾"
    assert record.value == sent.body, "it passes as it is"
    _check(record)


async def test_a_binary_event_in_the_rabbitmq_spelling_arrives(
    log: Transport, topic: str, plain: aio_pika.abc.AbstractChannel
) -> None:
    sent = rabbitmq.to_binary_event(EVENT)
    assert "ce-id" in sent.headers
    await _send(plain, topic, sent.body, sent.content_type, sent.headers)
    (record,) = await everything(log, topic, 0)
    assert record.key == "ключ-🧾"
    _check(record)


@pytest.mark.parametrize("separator", [":", "_"])
async def test_a_binary_event_in_the_amqp_spelling_arrives(
    log: Transport, topic: str, plain: aio_pika.abc.AbstractChannel, separator: str
) -> None:
    sent = amqp.to_binary_event(EVENT)
    headers = {name.replace("_", separator, 1): value for name, value in sent.application_properties.items()}
    assert isinstance(headers[f"cloudEvents{separator}time"], int), "a timestamp travels as a number"
    await _send(plain, topic, sent.application_data, sent.properties["content-type"], headers)
    (record,) = await everything(log, topic, 0)
    assert record.key == "ключ-🧾"
    _check(record)


async def test_the_key_of_a_foreign_event_without_subject_is_its_partitionkey(
    log: Transport, topic: str, plain: aio_pika.abc.AbstractChannel
) -> None:
    event = CloudEvent(
        {"id": "1", "source": "/s", "type": "t", "specversion": "1.0", "partitionkey": "p-7"}, b"\x00\xff"
    )
    binary, structured = rabbitmq.to_binary_event(event), rabbitmq.to_structured_event(event)
    await _send(plain, topic, binary.body, "application/octet-stream", binary.headers)
    await _send(plain, topic, structured.body, structured.content_type, structured.headers)
    records = await everything(log, topic, 0)
    assert [record.key for record in records] == ["p-7", "p-7"]
    assert all(decode_message(record.value).data_base64 == "AP8=" for record in records)


async def test_a_foreign_message_that_is_no_event_passes_with_its_bytes(
    log: Transport, topic: str, plain: aio_pika.abc.AbstractChannel
) -> None:
    await _send(
        plain, topic, b"\x80 no json", None, {"n": 3, "t": datetime(2026, 1, 1, tzinfo=UTC), "nested": {"a": [1]}}
    )
    await _send(plain, topic, b"[1]", "application/json", {})
    assert [(r.key, r.value) for r in await everything(log, topic, 0)] == [(None, b"\x80 no json"), (None, b"[1]")]


async def _send(
    plain: aio_pika.abc.AbstractChannel, topic: str, body: bytes, content_type: str | None, headers: dict[str, Any]
) -> None:
    message = aio_pika.Message(body, content_type=content_type, headers=headers)
    await within(plain.default_exchange.publish(message, f"{topic}.0"))


def _foreign(message: aio_pika.abc.AbstractIncomingMessage) -> rabbitmq.RabbitMQMessage:
    return rabbitmq.RabbitMQMessage(dict(message.headers), message.content_type, message.body)  # type: ignore[arg-type]  # headers that are text


def _check(record: Record) -> None:
    message = decode_message(record.value)
    assert (message.id, message.source, message.type, message.tenant) == ("e-1", "/shop/größe", "order.placed", "acme")
    assert message.subject == "ключ-🧾"
    assert datetime.fromisoformat(message.time) == EVENT.get_time()
    assert JSONFormat().read(None, record.value).get_data() == {"total": 12, "note": "日本語"}
