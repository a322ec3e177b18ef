"""What foreign clients see of the log in PostgreSQL, what they may write, and what its URL may say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg
import pytest
from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent
from millstream.clock import SystemClock
from millstream.errors import Misconfigured, TransportUnavailable
from millstream.message import Message, Record, decode_message, encode_message
from millstream.ports.instrumentation import Silent
from millstream.ports.transport import Durability
from millstream.runtime.adapters import AdapterContext
from millstream.testing.conformance.transport_case import everything, keyed, values, within
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.transports.postgresql import PostgresqlLog, open_transport

KEYS = ["é", "日本語", "🧾", "a b\tc", '{"quoted",\\}', "NULL", "", None]
CONTEXT = AdapterContext(Path(), SystemClock(), Silent(), keep_seconds=0)
APPEND = "SELECT millstream_log_append(%s, 0, ARRAY[%s], ARRAY[%s::bytea])"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return f"shop.{request.node.originalname}"


@pytest.fixture
async def log(server: PostgresqlServer, topic: str) -> AsyncIterator[PostgresqlLog]:
    async with open_transport(server.url, CONTEXT) as log:
        await log.provision(topic, 1)
        yield log


@pytest.fixture
async def foreign(
    server: PostgresqlServer, log: PostgresqlLog
) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    async with await psycopg.AsyncConnection.connect(f"{server.url}/millstream_log", autocommit=True) as connection:
        yield connection


async def test_a_plain_client_reads_our_records_as_structured_events(
    log: PostgresqlLog, foreign: psycopg.AsyncConnection[tuple[object, ...]], topic: str
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
                    data=msgspec.Raw('{"name": "Jürgen"}'.encode()),
                    tenant="acme",
                )
            ),
            key,
        )
        for number, key in enumerate(KEYS)
    ]
    await log.publish(topic, 0, records)
    cursor = await foreign.execute(
        "SELECT position, key, value, convert_from(value, 'UTF8')::json->>'id' FROM millstream_log "
        "WHERE topic = %s AND partition = 0 AND position > 0 ORDER BY position",
        (topic,),
    )
    found = await cursor.fetchall()
    assert [(row[0], row[1], row[3]) for row in found] == [(n + 1, key, f"id-{n}") for n, key in enumerate(KEYS)]
    for number, (_, key, value, _) in enumerate(found):
        assert isinstance(value, bytes)
        read = http.from_structured_event(http.HTTPMessage({"content-type": "application/cloudevents+json"}, value))
        assert (read.get_id(), read.get_subject(), read.get_extension("tenant")) == (
            f"id-{number}",
            key or None,
            "acme",
        )
        assert read.get_data() == {"name": "Jürgen"}


async def test_what_a_foreign_client_appends_is_read_at_once_by_whoever_waits(
    log: PostgresqlLog, foreign: psycopg.AsyncConnection[tuple[object, ...]], topic: str
) -> None:
    attributes = {
        "id": "foreign-1",
        "source": "https://shop.example/tills/4",
        "type": "com.example.placed",
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "datacontenttype": "application/json",
    }
    sent: list[bytes] = []
    for key, more in (("straße 7", {}), (None, {"subject": "日本語"}), (None, {"partitionkey": "till-4"})):
        message = http.to_structured_event(CloudEvent(attributes={**attributes, **more}, data={"total": 7}))
        sent.append(message.body)
        await foreign.execute(APPEND, (topic, key, message.body))
    reader = log.read(topic, 0, 0)
    records = await within(reader.next(10))
    assert [(record.key, record.value) for record in records] == list(
        zip(["straße 7", "日本語", "till-4"], sent, strict=True)
    )
    assert decode_message(records[0].value).type == "com.example.placed"
    await foreign.execute(APPEND, (topic, "later", b"{}"))
    assert [record.key for record in await within(reader.next(10))] == ["later"]
    await reader.aclose()


async def test_an_append_belongs_to_the_transaction_of_whoever_makes_it(
    server: PostgresqlServer, log: PostgresqlLog, foreign: psycopg.AsyncConnection[tuple[object, ...]], topic: str
) -> None:
    async with await psycopg.AsyncConnection.connect(f"{server.url}/millstream_log") as connection:
        await connection.execute(APPEND, (topic, "k", b"{}"))
        await connection.rollback()
        cursor = await connection.execute(APPEND, (f"{topic}-unknown", "k", b"{}"))
        assert await cursor.fetchall() == [(None,)], "NULL: there is no such partition"
    assert await everything(log, topic, 0) == []


# -- URLs and settings --------------------------------------------------------------------------------------------------


def test_all_that_is_wrong_with_a_url_is_listed_and_no_password() -> None:
    with pytest.raises(Misconfigured) as wrong:
        open_transport("postgresql://me:s3cret@db.internal?kepe=2d&keep=soon&connections=none", CONTEXT)
    text = str(wrong.value)
    assert len(wrong.value.problems) == 3
    assert "'kepe'" in text
    assert "also takes keep, largest_record_bytes" in text
    assert "'soon'" in text
    assert "connections" in text
    assert "s3cret" not in text


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(TransportUnavailable) as away:
        async with open_transport("postgresql://me:s3cret@127.0.0.1:1", CONTEXT):
            pass
    assert "s3cret" not in str(away.value)


async def test_a_log_in_a_schema_and_one_in_its_own_database_share_nothing(server: PostgresqlServer) -> None:
    server.execute("CREATE DATABASE platform")
    async with (
        open_transport(f"{server.url}/platform", CONTEXT) as one,
        open_transport(server.url, CONTEXT) as other,
    ):
        await one.provision("orders", 2)
        await other.provision("orders", 3)
        await one.publish("orders", 0, keyed("k", 1))
        assert values(await everything(one, "orders", 0)) == ["k:1"]
        assert await everything(other, "orders", 0) == []
    appended = server.execute(
        "SELECT millstream_log.millstream_log_append('orders', 1, ARRAY['k'], ARRAY['{}'::bytea])", "platform"
    )
    assert appended == [(1,)], "whatever the caller's search path"


async def test_a_user_that_may_not_make_the_tables_is_told(server: PostgresqlServer) -> None:
    server.execute("CREATE USER reader")
    server.execute("CREATE DATABASE foreign_one")
    with pytest.raises(Misconfigured, match="permission denied"):
        async with open_transport(f"postgresql://reader@127.0.0.1:{server.port}/foreign_one", CONTEXT):
            pass


async def test_tables_of_a_newer_version_are_left_alone(server: PostgresqlServer) -> None:
    server.execute("CREATE DATABASE newer")
    async with open_transport(f"{server.url}/newer", CONTEXT):
        pass
    server.execute("UPDATE millstream_log.millstream_log_format SET version = 2", "newer")
    with pytest.raises(Misconfigured, match="format 2"):
        async with open_transport(f"{server.url}/newer", CONTEXT):
            pass


async def test_a_server_as_it_comes_promises_everything(log: PostgresqlLog) -> None:
    assert await log.durability() == Durability(process_crash=True, power_loss=True)


async def test_a_setting_that_is_too_weak_is_named_with_what_it_needs(tmp_path: Path) -> None:
    with PostgresqlServer(tmp_path, {"synchronous_commit": "off", "fsync": "off"}) as server:
        async with open_transport(server.url, CONTEXT) as log:
            found = await log.durability()
    assert (found.process_crash, found.power_loss) == (False, False)
    assert "synchronous_commit is off: set it to on" in found.why_not
    assert "fsync is off: set it to on" in found.why_not
