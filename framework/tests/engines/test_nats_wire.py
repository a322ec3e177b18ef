"""What foreign clients see in NATS, and what they may write: nats-py as the client, the official CloudEvents package."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from urllib.parse import unquote

import msgspec
import nats
import pytest
from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent
from millstream.binary_mode import STRUCTURED
from millstream.message import Message, Record, decode_message, encode_message
from millstream.testing.conformance.transport_case import everything
from millstream.testing.engines.nats import NatsServer
from millstream.transports.nats import NatsOptions, NatsTransport
from millstream.transports.nats.wire import escape, subject_prefix, unescape
from nats.aio.client import Client

KEYS = ["é", "日本語", "🧾", "a b\tc", "50%", '"quoted"', "plain-key_1", "", None]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def foreign(server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    yield client
    await client.close()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return f"shop.{request.node.originalname}"


@pytest.fixture
async def log(server: NatsServer, topic: str) -> AsyncIterator[NatsTransport]:
    async with NatsTransport([("127.0.0.1", server.port)], options=NatsOptions(keep=0)) as log:
        await log.provision(topic, 1)
        yield log


@pytest.mark.parametrize("several", [False, True])
async def test_a_foreign_client_reads_our_records_as_structured_events(
    log: NatsTransport, foreign: Client, topic: str, several: bool
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
    if several:
        assert await log.publish(topic, 0, records) == len(records), "as an atomic batch"
    else:
        for record in records:
            await log.publish(topic, 0, [record])
    jetstream = foreign.jetstream()
    first = (await log.bounds(topic, 0)).latest - len(records) + 1
    for number, key in enumerate(KEYS):
        message = await jetstream.get_msg(escape(topic), first + number)
        assert message.subject == f"{topic}.0"
        headers = message.headers or {}
        assert headers["Content-Type"] == STRUCTURED
        assert (unquote(headers["Millstream-Key"]) if "Millstream-Key" in headers else None) == key
        assert message.data is not None
        event = http.from_structured_event(http.HTTPMessage({"content-type": headers["Content-Type"]}, message.data))
        assert (event.get_id(), event.get_type(), event.get_subject()) == (f"id-{number}", "OrderPlaced", key or None)
        assert event.get_data() == {"total": 12}
        assert event.get_extension("tenant") == "acme"


async def test_we_read_a_foreign_event_in_structured_mode(log: NatsTransport, foreign: Client, topic: str) -> None:
    message = http.to_structured_event(event("straße 7"))
    await foreign.jetstream().publish(f"{topic}.0", message.body, headers=message.headers)
    (record,) = await everything(log, topic, 0)
    assert record.value == message.body, "unchanged"
    assert record.key == "straße 7"
    assert decode_message(record.value).type == "com.example.placed"


async def test_we_read_a_foreign_event_in_binary_mode(log: NatsTransport, foreign: Client, topic: str) -> None:
    message = http.to_binary_event(event("straße 7"))
    assert message.headers["ce-id"] == "foreign-1"
    await foreign.jetstream().publish(f"{topic}.0", message.body, headers=message.headers)
    # As the binding itself says, with the data's type among the attributes.
    headers = {name: value for name, value in message.headers.items() if name != "content-type"}
    headers["ce-datacontenttype"] = "application/json"
    await foreign.jetstream().publish(f"{topic}.0", message.body, headers=headers)
    for record in await everything(log, topic, 0):
        assert record.key == "straße 7"
        decoded = decode_message(record.value)
        assert (decoded.id, decoded.source, decoded.subject) == ("foreign-1", "/foreign", "straße 7")
        assert decoded.datacontenttype == "application/json"
        assert json.loads(bytes(decoded.data)) == {"total": 12, "note": "ünïcode"}
        back = http.from_structured_event(http.HTTPMessage({"content-type": STRUCTURED}, record.value))
        assert back.get_attributes() == event("straße 7").get_attributes()


async def test_a_body_without_headers_is_the_event(log: NatsTransport, foreign: Client, topic: str) -> None:
    body = http.to_structured_event(event("k")).body
    await foreign.jetstream().publish(f"{topic}.0", body)
    (record,) = await everything(log, topic, 0)
    assert (record.value, record.key) == (body, "k")


async def test_the_key_of_a_foreign_event_is_ours_or_its_partition_key_or_its_subject(
    log: NatsTransport, foreign: Client, topic: str
) -> None:
    publish = foreign.jetstream().publish
    keyed = http.to_binary_event(event("subject", partitionkey="partition key"))
    await publish(f"{topic}.0", keyed.body, headers=keyed.headers)
    structured = http.to_structured_event(event("subject", partitionkey="partition key"))
    await publish(f"{topic}.0", structured.body, headers=structured.headers)
    await publish(f"{topic}.0", structured.body, headers={**structured.headers, "millstream-key": "ours%20"})
    await publish(f"{topic}.0", structured.body, headers={**structured.headers, "Millstream-Key": ""})
    nameless = http.to_structured_event(event(None))
    await publish(f"{topic}.0", nameless.body, headers=nameless.headers)
    keys = [record.key for record in await everything(log, topic, 0)]
    assert keys == ["partition key", "partition key", "ours ", "", None]


async def test_what_is_no_event_reaches_its_reader_as_it_is(log: NatsTransport, foreign: Client, topic: str) -> None:
    bodies = [b"", b"no json", b'{"subject": 7}', b"\xff\xfe", b"[" * 5_000]
    for body in bodies:
        await foreign.jetstream().publish(f"{topic}.0", body, headers={"X-Foreign": "1", "ce-type": "no%zzevent"})
    await foreign.jetstream().publish(f"{topic}.0", b"bad key", headers={"Millstream-Key": "not%FFutf-8"})
    records = await everything(log, topic, 0)
    assert [record.value for record in records] == [*bodies, b"bad key"]
    assert [record.key for record in records] == [*[None] * len(bodies), "not\ufffdutf-8"]


async def test_a_message_that_looks_like_a_status_is_a_record(
    log: NatsTransport, server: NatsServer, topic: str
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        plain.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
        headers = b"NATS/1.0 409 Consumer Deleted\r\n\r\n"
        plain.sendall(
            b"HPUB %s.0 %d %d\r\n%sbody\r\nPING\r\n" % (topic.encode(), len(headers), len(headers) + 4, headers)
        )
        assert any(line.startswith(b"PONG") for line in plain.makefile("rb"))
    assert [record.value for record in await everything(log, topic, 0)] == [b"body"]


def test_names_are_reversible_and_never_meet() -> None:
    names = ["a.b", "a=2Eb", "a_b", "a-b", "ä", "日本", "", ".", "..", "a b", "*", ">", "$JS", "\ud800"]
    assert [unescape(escape(name)) for name in names] == names
    assert len({escape(name) for name in names}) == len(names)
    prefixes = [subject_prefix(name) for name in [*names, "a..b", "=", ".a"]]
    assert len(set(prefixes)) == len(prefixes)
    for prefix in prefixes:
        assert prefix.endswith(".")
        assert all(token and not set(token) & set(" *>$\t") for token in prefix[:-1].split("."))
    assert subject_prefix("shop.orders_eu-1") == "shop.orders_eu-1."


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
