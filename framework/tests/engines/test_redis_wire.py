"""What foreign clients see in Redis, and what they may write: a plain client, and the official CloudEvents package."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.v1.event import CloudEvent
from millstream.binary_mode import STRUCTURED
from millstream.errors import Misconfigured, PositionGone, TransportUnavailable
from millstream.message import Message, Record, decode_message, encode_message
from millstream.testing.conformance.transport_case import everything, keyed, take, values, within
from millstream.testing.engines.redis import RedisServer
from millstream.transports.redis import RedisOptions, RedisTransport
from millstream.transports.redis.connections import Address
from redis.asyncio import Redis
from redis.exceptions import ResponseError

KEYS = ["é", "日本語", "🧾", "a b\tc", "50%", '"quoted"', "plain-key_1", "", None]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def foreign(server: RedisServer) -> AsyncIterator[Any]:
    client = Redis.from_url(server.url)
    yield client
    await client.aclose()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return f"shop.{request.node.originalname}"


@pytest.fixture
async def log(server: RedisServer, topic: str) -> AsyncIterator[RedisTransport]:
    async with RedisTransport(Address(host="127.0.0.1", port=server.port), options=RedisOptions(keep=0)) as log:
        await log.provision(topic, 1)
        yield log


def event(subject: str | None, **more: str) -> CloudEvent:
    attributes = {
        "id": "foreign-1",
        "source": "https://shop.example/tills/4",
        "type": "com.example.placed",
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "datacontenttype": "application/json",
        **more,
    }
    if subject is not None:
        attributes["subject"] = subject
    return CloudEvent(attributes=attributes, data={"total": 7})


def stream_of(topic: str) -> str:
    return f"millstream:{topic}:0"


async def test_a_plain_client_reads_our_records_as_structured_events(
    log: RedisTransport, foreign: Any, topic: str
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
    await log.publish(topic, 0, records)
    assert await foreign.hget("millstream:topics", topic) == b"1"
    found = await foreign.xrange(stream_of(topic))
    assert [id_ for id_, _ in found] == [f"9999999999999-{number}".encode() for number in range(1, len(KEYS) + 1)]
    for number, (_, fields) in enumerate(found):
        assert fields[b"content-type"].decode() == STRUCTURED
        key = fields[b"key"].decode() if b"key" in fields else None
        assert key == KEYS[number]
        read = kafka.from_structured_event(
            kafka.KafkaMessage({"content-type": fields[b"content-type"]}, key, fields[b"value"])
        )
        assert (read.get_id(), read.get_type(), read.get_subject()) == (f"id-{number}", "OrderPlaced", key or None)
        assert read.get_data() == {"total": 12}
        assert read.get_extension("tenant") == "acme"


async def test_a_foreign_event_in_structured_mode_is_read_as_it_is(
    log: RedisTransport, foreign: Any, topic: str
) -> None:
    message = kafka.to_structured_event(event("straße 7"))
    for fields in (
        {"value": message.value},
        {"value": message.value, "content-type": "application/cloudevents+json"},
        {"key": "straße 7", "value": message.value, "sent-by": "a till"},
    ):
        await foreign.xadd(stream_of(topic), fields, nomkstream=True)
    records = await everything(log, topic, 0)
    assert [(record.key, record.value) for record in records] == [("straße 7", message.value)] * 3
    assert [record.position for record in records] == [1, 2, 3]
    assert decode_message(records[0].value).type == "com.example.placed"


async def test_a_foreign_event_in_binary_mode_becomes_structured(log: RedisTransport, foreign: Any, topic: str) -> None:
    message = kafka.to_binary_event(event("日本語", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"))
    assert message.headers["ce_id"] == b"foreign-1"
    await foreign.xadd(stream_of(topic), {**message.headers, "value": message.value})
    (record,) = await everything(log, topic, 0)
    read = decode_message(record.value)
    assert (record.key, read.key, read.id, read.type) == ("日本語", "日本語", "foreign-1", "com.example.placed")
    assert read.traceparent is not None
    assert read.traceparent.startswith("00-aaaa")
    assert msgspec.json.decode(read.data) == {"total": 7}


async def test_the_partition_key_orders_where_there_is_no_subject(
    log: RedisTransport, foreign: Any, topic: str
) -> None:
    message = kafka.to_structured_event(event(None, partitionkey="till-4"))
    await foreign.xadd(stream_of(topic), {"value": message.value})
    (record,) = await everything(log, topic, 0)
    assert record.key == "till-4"


async def test_anything_may_stand_in_a_foreign_entry(log: RedisTransport, foreign: Any, topic: str) -> None:
    """What is no event comes as bytes: the reading service makes a dead letter of it."""
    await foreign.xadd(stream_of(topic), {"message": "hello"})
    await foreign.xadd(stream_of(topic), {"value": b"\xff\xfe", "key": b"\xff", "content-type": b"image/\xff"})
    await foreign.xadd(stream_of(topic), {"content-type": STRUCTURED, "key": b"\xff", "value": b"{"})
    await log.publish(topic, 0, keyed("k", 1))
    records = await everything(log, topic, 0)
    assert [record.position for record in records] == [1, 2, 3, 4]
    assert records[0].value == b""
    assert (records[2].key, records[2].value) == ("\ufffd", b"{")
    assert records[3].value == b"k:1"


async def test_foreign_writers_and_ours_share_one_numbering(log: RedisTransport, foreign: Any, topic: str) -> None:
    reader = log.read(topic, 0, 0)
    for number in range(20):
        if number % 2:
            await foreign.xadd(stream_of(topic), {"key": "k", "value": f"k:{number}"}, nomkstream=True)
        else:
            await log.publish(topic, 0, keyed("k", number))
    records = await take(reader, 20)
    assert values(records) == [f"k:{number}" for number in range(20)]
    assert [record.position for record in records] == list(range(1, 21))


async def test_an_id_that_would_go_back_is_refused_by_redis(log: RedisTransport, foreign: Any, topic: str) -> None:
    await log.publish(topic, 0, keyed("k", 1))
    for id_ in ("1-1", "1795272768000-0", "9999999999999-1"):
        with pytest.raises(ResponseError, match="equal or smaller"):
            await foreign.xadd(stream_of(topic), {"value": "x"}, id=id_)


async def test_an_id_of_another_numbering_is_noticed_and_can_be_repaired(
    log: RedisTransport, foreign: Any, topic: str
) -> None:
    await log.publish(topic, 0, keyed("k", 1))
    reader = log.read(topic, 0, 0)
    await foreign.xadd(stream_of(topic), {"value": "x"}, id="10000000000000-0")
    assert values(await take(reader, 1)) == ["k:1"]
    for call in (reader.next(1), log.publish(topic, 0, keyed("k", 2)), log.bounds(topic, 0)):
        with pytest.raises(TransportUnavailable, match=r"id of its own.*XDEL.*XSETID"):
            await within(call)
    await foreign.xdel(stream_of(topic), "10000000000000-0")
    await foreign.execute_command("XSETID", stream_of(topic), "9999999999999-1")
    await log.publish(topic, 0, keyed("k", 2))
    assert values(await within(reader.next(10))) == ["k:2"]


async def test_a_number_that_was_skipped_or_deleted_is_never_passed_over(
    log: RedisTransport, foreign: Any, topic: str
) -> None:
    await log.publish(topic, 0, keyed("k", 1, 2, 3))
    await foreign.xadd(stream_of(topic), {"value": "x"}, id="9999999999999-9")
    await foreign.xdel(stream_of(topic), "9999999999999-2")
    for after, go_on in ((1, 2), (3, 8)):
        with pytest.raises(PositionGone) as gone:
            await within(log.read(topic, 0, after).next(10))
        assert gone.value.earliest == go_on
        assert (await within(log.read(topic, 0, go_on).next(10)))[0].position == go_on + 1


async def test_a_key_that_is_in_the_way_is_named(log: RedisTransport, foreign: Any, topic: str) -> None:
    other = f"{topic}-other"
    await foreign.xadd(stream_of(other), {"value": "somebody else's stream"})
    with pytest.raises(Misconfigured, match=f"{stream_of(other)}.*RENAME"):
        await log.provision(other, 1)
    assert await log.partitions(other) is None
    await foreign.rename(stream_of(other), "elsewhere")
    await log.provision(other, 1)
