"""What foreign clients see in Kafka, and what they may write: confluent_kafka as the client, the official CloudEvents package."""

from __future__ import annotations

import asyncio
import ctypes
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import confluent_kafka
import msgspec
import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage
from millstream.binary_mode import STRUCTURED
from millstream.errors import RecordRefused
from millstream.message import Message, Record, decode_message, encode_message
from millstream.testing.conformance.transport_case import everything
from millstream.testing.engines.kafka import KafkaServer
from millstream.testing.engines.shared import shared_engine
from millstream.transports.kafka import Connection, KafkaOptions, KafkaTransport

KEYS = ["é", "日本語", "🧾", "a b\tc", "50%", '"quoted"', "plain-key_1", "", None]
ANSWER_SECONDS = 20.0

Headers = dict[str, bytes]
Send = Callable[..., None]


@pytest.fixture
def broker(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> KafkaServer:
    return shared_engine(pytestconfig, KafkaServer, lambda: KafkaServer(tmp_path_factory.mktemp("kafka")))


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return f"shop.{request.node.originalname}-{random.randrange(10**6)}"


@pytest.fixture
async def log(broker: KafkaServer, topic: str) -> AsyncIterator[KafkaTransport]:
    async with KafkaTransport(Connection(broker.bootstrap), KafkaOptions(fetch_wait_ms=10)) as log:
        await log.provision(topic, 1)
        yield log


@pytest.fixture
def send(broker: KafkaServer, topic: str) -> Send:
    """A plain client that publishes one record and waits for it."""

    def send(value: bytes | None, key: str | bytes | None = None, headers: Headers | None = None) -> None:
        producer = Producer({"bootstrap.servers": broker.bootstrap})
        producer.produce(topic, value, key, partition=0, headers=dict(headers) if headers else None)
        assert producer.flush(ANSWER_SECONDS) == 0

    return send


@pytest.fixture
def foreign(broker: KafkaServer) -> Iterator[Consumer]:
    """A plain client that reads."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "foreign", "enable.auto.commit": False})
    yield consumer
    consumer.close()


def read(consumer: Consumer, topic: str, count: int) -> Sequence[KafkaMessage]:
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[KafkaMessage] = []
    while len(found) < count:
        some = consumer.consume(count - len(found), ANSWER_SECONDS)
        assert some, f"only {len(found)} of {count} came"
        assert not any(message.error() for message in some)
        found += some
    return found


async def test_a_foreign_client_reads_our_records_as_structured_events(
    log: KafkaTransport, foreign: Consumer, topic: str
) -> None:
    records = [
        Record(
            encode_message(
                Message(
                    id=f"id-{number}",
                    source="/orders",
                    type="OrderPlaced",
                    subject=key or None,  # an attribute must not be empty, a record's key may
                    time="2026-01-02T03:04:05.000006Z",
                    data=msgspec.Raw(b'{"total": 12}'),
                    tenant="acme",
                )
            ),
            key,
        )
        for number, key in enumerate(KEYS)
    ]
    assert await log.publish(topic, 0, records) == len(records)
    for number, (key, message) in enumerate(zip(KEYS, read(foreign, topic, len(records)), strict=True)):
        raw = message.key()
        assert (None if raw is None else raw.decode()) == key
        assert message.headers() == [("content-type", STRUCTURED.encode())]
        event = kafka.from_kafka_event(as_the_package_has_it(message))
        assert (event.get_id(), event.get_type(), event.get_subject()) == (f"id-{number}", "OrderPlaced", key or None)
        assert event.get_data() == {"total": 12}
        assert event.get_extension("tenant") == "acme"
        assert event.get_extension("partitionkey") == key
    assert [record.key for record in await everything(log, topic, 0)] == KEYS


def as_the_package_has_it(message: KafkaMessage) -> kafka.KafkaMessage:
    headers = {name: bytes(raw) for name, raw in message.headers() or [] if isinstance(raw, bytes)}
    return kafka.KafkaMessage(headers=headers, key=message.key(), value=message.value() or b"")


async def test_we_read_a_foreign_event_in_structured_mode(log: KafkaTransport, send: Send, topic: str) -> None:
    message = kafka.to_structured_event(event("straße 7", partitionkey="straße"))
    await asyncio.to_thread(send, message.value, message.key, message.headers)
    (record,) = await everything(log, topic, 0)
    assert record.value == message.value, "unchanged"
    assert record.key == "straße"
    decoded = decode_message(record.value)
    assert (decoded.type, decoded.subject) == ("com.example.placed", "straße 7")


async def test_we_read_a_foreign_event_in_binary_mode(log: KafkaTransport, send: Send, topic: str) -> None:
    message = kafka.to_binary_event(event("straße 7", partitionkey="straße"))
    assert message.headers["ce_id"] == b"foreign-1"
    await asyncio.to_thread(send, message.value, message.key, message.headers)
    (record,) = await everything(log, topic, 0)
    assert record.key == "straße"
    decoded = decode_message(record.value)
    assert (decoded.id, decoded.source, decoded.subject) == ("foreign-1", "/foreign", "straße 7")
    assert decoded.datacontenttype == "application/json"
    assert json.loads(bytes(decoded.data)) == {"total": 12, "note": "ünïcode"}
    back = kafka.from_structured_event(
        kafka.KafkaMessage({"content-type": STRUCTURED.encode()}, record.key, record.value)
    )
    assert back.get_attributes() == event("straße 7", partitionkey="straße").get_attributes()


async def test_binary_data_that_is_no_json_comes_as_base64(log: KafkaTransport, send: Send, topic: str) -> None:
    headers = {
        "ce_specversion": b"1.0",
        "CE_ID": b"1",
        "ce_source": b"/foreign",
        "ce_type": b"Scanned",
        "Content-Type": b"image/png",
        "x-trace": b"\xff not text",
    }
    await asyncio.to_thread(send, b"\x89PNG\r\n", None, headers)
    (record,) = await everything(log, topic, 0)
    decoded = decode_message(record.value)
    assert (decoded.id, decoded.datacontenttype, decoded.data_base64) == ("1", "image/png", "iVBORw0K")


async def test_the_key_of_a_foreign_record_is_kafkas_or_its_subject_or_its_partition_key(
    log: KafkaTransport, send: Send, topic: str
) -> None:
    for make in (kafka.to_binary_event, kafka.to_structured_event):
        message = make(event("subject", partitionkey="partition key"))
        await asyncio.to_thread(send, message.value, "kafka's", message.headers)
        await asyncio.to_thread(send, message.value, "", message.headers)
        await asyncio.to_thread(send, message.value, None, message.headers)
        message = make(event(None, partitionkey="partition key"))
        await asyncio.to_thread(send, message.value, None, message.headers)
        message = make(event(None))
        await asyncio.to_thread(send, message.value, None, message.headers)
    keys = [record.key for record in await everything(log, topic, 0)]
    assert keys == ["kafka's", "", "subject", "partition key", None] * 2


async def test_a_value_without_headers_is_the_event(log: KafkaTransport, send: Send, topic: str) -> None:
    value = kafka.to_structured_event(event("subject")).value
    await asyncio.to_thread(send, value)
    (record,) = await everything(log, topic, 0)
    assert (record.value, record.key) == (value, "subject")


async def test_what_is_no_event_reaches_its_reader_as_it_is(log: KafkaTransport, send: Send, topic: str) -> None:
    values = [b"", b"no json", b'{"subject": 7}', b"\xff\xfe", b"[" * 5_000, None]
    for value in values:
        await asyncio.to_thread(send, value, b"not\xffutf-8", {"x-foreign": b"1"})
        await asyncio.to_thread(send, value)
    records = await everything(log, topic, 0)
    assert [record.value for record in records[::2]] == [value or b"" for value in values]
    assert {record.key for record in records[::2]} == {"not\\xffutf-8"}
    assert {record.key for record in records[1::2]} == {None}


async def test_a_header_whose_name_is_no_text_stops_nobody(
    log: KafkaTransport, broker: KafkaServer, topic: str
) -> None:
    ours = [Record(b"ours", "k") for _ in range(100)]  # enough for the interpreter to take its short cuts
    for names in ([b"\xff\xfe"], [b"content-type", b"\xff"], [b"\xff", b"ce_id"]):
        await log.publish(topic, 0, ours)
        await asyncio.to_thread(send_by_librdkafka, broker.bootstrap, topic, b"foreign", names)
    await log.publish(topic, 0, ours)
    found = await everything(log, topic, 0)
    assert [record.value for record in found] == [*[*[b"ours"] * 100, b"foreign"] * 3, *[b"ours"] * 100]


def send_by_librdkafka(bootstrap: str, topic: str, value: bytes, names: list[bytes]) -> None:
    """The library below the Python client, which takes names of headers as text only."""
    (path,) = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs").glob("librdkafka*")
    library = ctypes.CDLL(str(path))
    for maker in (library.rd_kafka_conf_new, library.rd_kafka_new, library.rd_kafka_headers_new):
        maker.restype = ctypes.c_void_p
    error = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    assert library.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), error, 512) == 0
    producer = ctypes.c_void_p(library.rd_kafka_new(0, conf, error, 512))
    headers = ctypes.c_void_p(library.rd_kafka_headers_new(len(names)))
    for name in names:
        library.rd_kafka_header_add(headers, name, ctypes.c_ssize_t(len(name)), b"1", ctypes.c_ssize_t(1))
    end, to_topic, to_partition, with_value, flags, copy, with_headers = 0, 1, 3, 4, 7, 2, 10
    arguments = (
        *(to_topic, ctypes.c_char_p(topic.encode()), to_partition, ctypes.c_int32(0)),
        *(with_value, ctypes.c_char_p(value), ctypes.c_size_t(len(value)), flags, copy, with_headers, headers, end),
    )
    assert library.rd_kafka_producev(producer, *arguments) == 0
    assert library.rd_kafka_flush(producer, 20_000) == 0
    library.rd_kafka_destroy(producer)


async def test_records_of_an_aborted_transaction_are_not_read_and_leave_no_gap_in_what_is(
    log: KafkaTransport, broker: KafkaServer, topic: str
) -> None:
    def write() -> None:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": topic})
        producer.init_transactions(ANSWER_SECONDS)
        for commit in (True, False, True):
            producer.begin_transaction()
            for number in range(3):
                producer.produce(topic, f"{commit}-{number}".encode(), "k", partition=0)
            if commit:
                producer.commit_transaction(ANSWER_SECONDS)
            else:
                assert producer.flush(ANSWER_SECONDS) == 0
                producer.abort_transaction(ANSWER_SECONDS)

    await asyncio.to_thread(write)
    async with asyncio.timeout(ANSWER_SECONDS):
        # Nine records and three markers. The last marker is written after the commit has returned.
        while (await log.bounds(topic, 0)).latest < 12:  # noqa: ASYNC110 - the broker writes it
            await asyncio.sleep(0.01)
    assert await log.publish(topic, 0, [Record(b"ours", "k")]) == 1
    found = await everything(log, topic, 0)
    assert [record.value for record in found] == [b"True-0", b"True-1", b"True-2"] * 2 + [b"ours"]
    bounds = await log.bounds(topic, 0)
    assert found[-1].position == bounds.latest


async def test_compressed_records_of_a_foreign_producer_are_read_one_by_one(
    log: KafkaTransport, broker: KafkaServer, topic: str
) -> None:
    def write(codec: str) -> None:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "compression.type": codec, "linger.ms": 50})
        for number in range(100):
            producer.produce(topic, b"%d" % number * 20, "k", partition=0)
        assert producer.flush(ANSWER_SECONDS) == 0

    for codec in ("gzip", "lz4", "snappy", "zstd"):
        await asyncio.to_thread(write, codec)
    found = await everything(log, topic, 0)
    assert [record.value for record in found] == [b"%d" % number * 20 for number in range(100)] * 4
    reader = log.read(topic, 0, 150)  # in the middle of a batch
    assert (await reader.next(1))[0].position == 151
    await reader.aclose()


async def test_the_largest_record_passes_with_the_longest_key_and_one_byte_more_is_refused(
    log: KafkaTransport, topic: str
) -> None:
    largest = log.capabilities.largest_record_bytes
    key = "é" * 512
    assert len(key.encode()) == 1024
    noise = random.Random(1).randbytes(largest + 1)
    assert await log.publish(topic, 0, [Record(noise[:largest], key)]) == 1
    with pytest.raises(RecordRefused) as refused:
        await log.publish(topic, 0, [Record(b"first", key), Record(noise, key), Record(b"last", key)])
    assert refused.value.index == 1
    with pytest.raises(RecordRefused):
        await log.publish(topic, 0, [Record(noise[:largest], key + "k")])
    found = await everything(log, topic, 0)
    assert [(len(record.value), record.key) for record in found] == [(largest, key), (5, key)]


def event(subject: str | None, **extensions: str) -> CloudEvent:
    attributes: dict[str, object] = {
        "id": "foreign-1",
        "source": "/foreign",
        "type": "com.example.placed",
        "specversion": "1.0",
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "datacontenttype": "application/json",
        **extensions,
    }
    if subject is not None:
        attributes["subject"] = subject
    return CloudEvent(attributes=attributes, data={"total": 12, "note": "ünïcode"})
