"""Foreign queues on real engines: what a plain client sends becomes events, once, whoever dies in between."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import aio_pika
import nats
import nats.js.api
import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient
from millstream.binary_mode import STRUCTURED
from millstream.clock import SystemClock
from millstream.errors import Misconfigured, TransportUnavailable
from millstream.ports.instrumentation import Field, Silent
from millstream.ports.intake import ForeignMessage, IntakeSource
from millstream.runtime.adapters import AdapterContext, open_intake
from millstream.testing.engines.server import EngineServer, free_port
from millstream.transports.rabbitmq import frames
from millstream.transports.rabbitmq.connection import Login
from millstream.transports.rabbitmq.intake import IntakeOptions, RabbitmqIntake
from millstream.transports.rabbitmq.link import Link
from pamqp import commands, frame, header

sys.path.insert(0, str(Path(__file__).parent))

from foreign_queues import PREFETCH, QUEUES, SERVERS, Foreign, KafkaTopic, NatsQueue, RabbitmqQueue, Sent, orders
from taking_in import PATIENCE_SECONDS, Running, Small, context, until

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
GUIDE = ROOT / "docs" / "guide" / "intakes.md"
ENGINES = ["rabbitmq", "kafka", "nats"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], EngineServer]]:
    """One node of each engine, started when a test first needs it. Tests kill them; each leaves its own running."""
    running: dict[str, EngineServer] = {}

    def get(engine: str) -> EngineServer:
        if engine not in running:
            running[engine] = SERVERS[engine](tmp_path_factory.mktemp(engine))
        running[engine].start()
        return running[engine]

    yield get
    for server in running.values():
        server.stop()


@pytest.fixture(scope="module")
def settled() -> dict[str, tuple[Foreign, float]]:
    """A queue of each engine, made with the first one of the engine, and the moment from which on the engine may be killed."""
    return {}


@pytest.fixture
async def make(
    servers: Callable[[str], EngineServer], settled: dict[str, tuple[Foreign, float]]
) -> Callable[..., Awaitable[Any]]:
    async def make(engine: str, *, impatient: bool = False) -> Foreign:
        server = servers(engine)
        if engine not in settled:
            old = QUEUES[engine](server, "legacy-old", impatient=True)
            await old.make()
            settled[engine] = old, time.monotonic() + old.settles_seconds
        queue = QUEUES[engine](server, f"legacy-{uuid4().hex[:8]}", impatient=impatient)
        await queue.make()
        return queue

    return make


@pytest.fixture(params=ENGINES)
async def queue(request: pytest.FixtureRequest, make: Callable[..., Awaitable[Foreign]]) -> Foreign:
    return await make(request.param, impatient=True)


# -- what arrives ---------------------------------------------------------------------------------------------------


async def test_what_a_foreign_client_sends_arrives_as_events_and_leaves_the_queue(
    queue: Foreign, tmp_path: Path
) -> None:
    envelope = {"specversion": "1.0", "id": "e-1", "source": "//erp", "type": "LegacyOrder", "subject": "o-1"}
    await queue.send(
        [
            *orders(range(50)),
            Sent(json.dumps({**envelope, "data": {"order": "o-1", "total": 50}}).encode(), STRUCTURED),
            Sent(b'{"order": "o-2", "total": 51}', "application/json", {**envelope, "id": "e-2", "subject": "o-2"}),
        ]
    )
    async with Running(tmp_path, queue.source)() as running:
        await until(lambda: _are(running.seen, range(52)))
        await until(lambda: _is(queue.open, 0))
        rows = await running.store.query("SELECT source, id FROM millstream_inbox WHERE source = '//erp' ORDER BY id")
    assert [tuple(row) for row in rows] == [("//erp", "e-1"), ("//erp", "e-2")], "they keep their own envelope"


async def test_what_fits_nothing_becomes_a_dead_letter_and_the_rest_goes_on(queue: Foreign, tmp_path: Path) -> None:
    bad = [
        Sent(b"\xff\x00 no JSON"),
        Sent(b'{"order": 7}'),
        Sent(b""),
        Sent(b"[" * 100_000),
        Sent(b'{"order": "o-\\u0000", "total": 1}'),
        Sent(b"no envelope", STRUCTURED),
        Sent(b'{"order": "o-1", "total": 1}', "application/json", {"specversion": "1.0", "id": "no source"}),
    ]
    for n, message in enumerate(bad):
        await queue.send([message, *orders([n])])
    async with Running(tmp_path, queue.source)() as running:
        await until(lambda: _are(running.seen, range(len(bad))))
        await until(lambda: _is(queue.open, 0))
        await until(lambda: _is(running.letters, ["undecodable"] * len(bad)))


# -- death ----------------------------------------------------------------------------------------------------------


async def _die(when: str, queue: Foreign, folder: Path) -> None:
    command = [sys.executable, str(HERE / "taking_in.py"), when, queue.url, str(folder)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("when", ["returned", "accepted"])
async def test_a_process_killed_with_messages_in_hand_loses_and_doubles_none(
    queue: Foreign, tmp_path: Path, when: str
) -> None:
    await queue.send(orders(range(30)))
    await _die(when, queue, tmp_path)
    durable = _outbox_and_inbox(tmp_path)
    assert durable if when == "accepted" else not durable
    async with Running(tmp_path, queue.source)() as running:
        await until(lambda: _is(queue.open, 0))
        await queue.send(orders([30]))
        await until(lambda: _has(running.seen, 30))
        assert sorted(await running.seen()) == list(range(31))


async def test_without_acknowledging_after_acceptance_a_killed_process_loses_messages(
    queue: Foreign, tmp_path: Path
) -> None:
    """The same, with the safeguard taken out."""
    await queue.send(orders(range(30)))
    await _die("eager", queue, tmp_path)
    async with Running(tmp_path, queue.source)() as running:
        await until(lambda: _is(queue.open, 0))
        await queue.send(orders([30]))
        await until(lambda: _has(running.seen, 30))
        assert set(range(31)) - set(await running.seen()), "messages were lost"


def _outbox_and_inbox(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "shop.db")) as file:
        return file.execute(
            "SELECT (SELECT COUNT(*) FROM millstream_outbox) + (SELECT COUNT(*) FROM millstream_inbox)"
        ).fetchone()[0]


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_engine_killed_and_started_again_loses_and_doubles_none(
    engine: str,
    make: Callable[[str], Awaitable[Foreign]],
    settled: dict[str, tuple[Foreign, float]],
    tmp_path: Path,
) -> None:
    await make(engine)
    queue, may_be_killed = settled[engine]
    await until(lambda: _holds(lambda: time.monotonic() > may_be_killed))
    rounds: list[int] = []
    await queue.send(orders(range(300)))
    async with Running(tmp_path, lambda: Small(queue.source(), rounds))() as running:
        await until(lambda: _holds(lambda: len(rounds) >= 10))
        await asyncio.to_thread(queue.server.kill)
        assert sum(rounds) < 300, "it came too late"
        await asyncio.to_thread(queue.server.start)
        await queue.send(orders(range(300, 330)))
        await until(lambda: _is(queue.open, 0))
        await until(lambda: _has_all(running.seen, 330))
        assert sorted(await running.seen()) == list(range(330))


# -- as an operator runs it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_configuration_of_the_guide_runs_the_example(
    engine: str, servers: Callable[[str], EngineServer], tmp_path: Path
) -> None:
    """Each block, with the port of a real engine in it."""
    server = servers(engine)
    (block,) = re.findall(rf"^```toml\n# {engine}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    url = tomllib.loads(block)["intakes"]["legacy-orders"]
    options = dict(parse_qsl(urlsplit(url).query))
    queue = QUEUES[engine](server, options.get("queue") or options.get("topic") or options["stream"])
    await (queue.make(durable_name=options["consumer"]) if isinstance(queue, NatsQueue) else queue.make())
    await queue.send([Sent(b'{"number": "A-%d", "total": %d}' % (n, n)) for n in range(20)])
    config = tmp_path / "millstream.toml"
    config.write_text(re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{urlsplit(server.url).port}", block))
    command = [sys.executable, "-m", "millstream", "run", "shop", "examples.intakes.legacy:shop"]
    command += ["--config", str(config), "--port", "0", "--data", str(tmp_path / "var")]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)
    try:
        expected = [(f"A-{n}", n) for n in range(20)]
        await until(lambda: _holds(lambda: _orders(tmp_path / "var" / "shop.db") == expected))
    finally:
        process.terminate()
        assert await process.wait() == 0


def _orders(file: Path) -> list[tuple[str, int]]:
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            return database.execute("SELECT number, total FROM orders ORDER BY total").fetchall()
    except sqlite3.OperationalError:  # there is no file yet, or no table in it
        return []


# -- what an operator may get wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        (
            "rabbitmq://u:s3cret@:1,host:x/a/b?colour=red&timeout=soon&prefetch=0&tls=maybe",
            ("colour", "soon", "prefetch=0", "tls=maybe", "%2F", "broker ':1'", "broker 'host:x'", "?queue=NAME"),
        ),
        (
            "nats://u:s3cret@host:x/path?colour=red&stream=a.b&prefetch=0&timeout=0",
            ("colour", "stream=a.b", "prefetch=0", "timeout", "'/path'", "host:x", "consumer=NAME"),
        ),
        (
            "kafka://u:s3cret@?colour=red&session=0s&timeout=soon&sasl=none&ca=/nowhere",
            ("colour", "session=0s", "soon", "sasl=none", "/nowhere", "?topic=NAME", "group=NAME", "kafka://host"),
        ),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_every_problem_of_a_url_is_listed_at_once_and_the_password_is_not(url: str, wrong: Sequence[str]) -> None:
    with pytest.raises(Misconfigured) as refused:
        open_intake(url, context())
    assert [text for text in wrong if text not in str(refused.value)] == []
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "rabbitmq://u:s3cret@127.0.0.1:{port}?queue=q",
        "nats://u:s3cret@127.0.0.1:{port}?stream=s&consumer=c",
        "kafka://u:s3cret@127.0.0.1:{port}?topic=t&group=g",
    ],
    ids=lambda url: url.partition(":")[0],
)
async def test_an_engine_that_is_away_is_said_to_be_in_bounded_time(url: str) -> None:
    async with asyncio.timeout(20):
        async with open_intake(url.format(port=free_port()), context()) as source:
            with pytest.raises(TransportUnavailable) as away:
                await source.next(1)
    assert "s3cret" not in str(away.value)


async def test_a_queue_that_does_not_exist_is_named(queue: Foreign) -> None:
    queue.name = "nobody-made-this"
    with pytest.raises(Misconfigured, match="nobody-made-this"):
        async with asyncio.timeout(PATIENCE_SECONDS), queue.source() as source:
            await source.next(1)


async def test_a_stream_of_rabbitmq_is_refused_before_anything_is_accepted(
    make: Callable[[str], Awaitable[RabbitmqQueue]],
) -> None:
    queue = await make("rabbitmq")
    queue.name += "-stream"
    async with await aio_pika.connect(queue.server.amqp_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue.name, durable=True, arguments={"x-queue-type": "stream"})
    async with asyncio.timeout(PATIENCE_SECONDS), queue.source() as source, asyncio.TaskGroup() as group:
        sending = group.create_task(_keep_sending(queue))
        with pytest.raises(Misconfigured, match="stream"):
            await source.next(1)
        sending.cancel()


async def _keep_sending(queue: Foreign) -> None:
    """A consumer of a stream sees only what comes after it."""
    while True:
        await queue.send(orders([0]))


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"ack_policy": nats.js.api.AckPolicy.NONE}, "explicit"), ({"deliver_subject": "elsewhere"}, "pull")],
)
async def test_a_consumer_of_nats_that_loses_messages_is_refused(
    servers: Callable[[str], EngineServer], settings: dict[str, Any], why: str
) -> None:
    queue = NatsQueue(servers("nats"), f"legacy-{uuid4().hex[:8]}")
    await queue.make(retention=nats.js.api.RetentionPolicy.LIMITS, **settings)
    with pytest.raises(Misconfigured, match=why):
        async with queue.source() as source:
            await source.next(1)


async def test_a_consumer_of_nats_that_gives_up_on_a_message_is_warned_of(
    servers: Callable[[str], EngineServer],
) -> None:
    queue, said = NatsQueue(servers("nats"), f"legacy-{uuid4().hex[:8]}"), list[Mapping[str, object]]()
    await queue.make(max_deliver=3)
    await queue.send(orders([1]))

    class Listening(Silent):
        def log(self, level: str, event: str, **fields: Field) -> None:
            said.append({"event": event, **fields})

    async with open_intake(queue.url, AdapterContext(Path(), SystemClock(), Listening())) as source:
        assert len(await source.next(1)) == 1
    assert [fields["event"] for fields in said] == ["intake_too_weak"]
    assert "max_deliver is 3" in str(said[0]["why"])


async def test_records_of_kafka_that_are_gone_are_an_error_that_names_the_choices(
    make: Callable[[str], Awaitable[KafkaTopic]],
) -> None:
    queue = await make("kafka")
    await queue.send(orders(range(30)))
    async with queue.source() as source:
        taken = 0
        while taken < 30:
            taken += len(await source.next(5))
            await source.acknowledge()
    await queue.send(orders(range(30, 90)))
    admin = AdminClient({"bootstrap.servers": queue.server.bootstrap, "log_level": 0})
    deleted = admin.delete_records([TopicPartition(queue.name, n, OFFSET_END) for n in range(3)])
    for future in deleted.values():
        await asyncio.wrap_future(future)
    with pytest.raises(Misconfigured, match="--reset-offsets"):
        async with asyncio.timeout(PATIENCE_SECONDS), queue.source() as source:
            await source.next(5)


# -- how much is here ----------------------------------------------------------------------------------------------


async def test_no_more_than_the_prefetch_is_unacknowledged(make: Callable[[str], Awaitable[RabbitmqQueue]]) -> None:
    queue = await make("rabbitmq")
    await queue.send(orders(range(60)))
    async with queue.source() as source:
        assert len(await source.next(5)) <= 5
        await until(lambda: _is(queue.ready, 60 - PREFETCH))
        found = 0
        while found < PREFETCH - 5:
            found += len(await source.next(5))
        assert await queue.ready() == 60 - PREFETCH
        await source.acknowledge()
        await until(lambda: _is(queue.ready, 60 - 2 * PREFETCH))
    await until(lambda: _is(queue.ready, 60 - PREFETCH))


async def test_no_more_than_the_prefetch_is_pending_at_nats(make: Callable[[str], Awaitable[NatsQueue]]) -> None:
    queue, most = await make("nats"), 0
    await queue.send(orders(range(100)))
    async with queue.source() as source:
        taken = 0
        while taken < 100:
            found = await source.next(5)
            most = max(most, (await queue.info()).num_ack_pending or 0)
            taken += len(found)
            await source.acknowledge()
    assert 5 <= most <= PREFETCH
    assert await queue.open() == 0


async def test_kafka_is_told_of_what_was_acknowledged_and_of_nothing_else(
    make: Callable[[str], Awaitable[KafkaTopic]],
) -> None:
    queue = await make("kafka")
    await queue.send(orders(range(60)))
    async with queue.source() as source:
        acknowledged = 0
        for _ in range(3):
            found = await source.next(7)
            assert len(found) <= 7
            await source.acknowledge()
            acknowledged += len(found)
            assert await queue.open() == 60 - acknowledged
        await source.next(7)
    assert await queue.open() == 60 - acknowledged


@pytest.mark.parametrize("engine", ["rabbitmq", "nats"])
async def test_what_was_not_accepted_at_an_orderly_end_comes_again_at_once(
    engine: str, make: Callable[[str], Awaitable[Foreign]]
) -> None:
    """Long before NATS would deliver it again by itself."""
    queue = await make(engine)
    if isinstance(queue, NatsQueue):
        await queue.drop()
        await queue.make(ack_wait=60.0)
    await queue.send(orders(range(10)))
    async with queue.source() as source:
        before = {message.identity for message in await _take(source, 10)}
    async with asyncio.timeout(10), queue.source() as source:
        after = {message.identity for message in await _take(source, 10)}
    assert after == before
    assert None not in before


async def test_nats_is_asked_for_patience_while_the_store_is_away(servers: Callable[[str], EngineServer]) -> None:
    queue = NatsQueue(servers("nats"), f"legacy-{uuid4().hex[:8]}")
    await queue.make(ack_wait=0.5)
    await queue.send(orders(range(10)))
    async with queue.source() as source:
        await _take(source, 10)
        since = time.monotonic()
        await until(lambda: _holds(lambda: time.monotonic() > since + 2.0))
        redelivered = (await queue.info()).num_redelivered
        await source.acknowledge()
    assert (redelivered, await queue.open()) == (0, 0)


# -- which message is which ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["kafka", "nats"])
async def test_a_queue_that_is_deleted_and_made_again_does_not_pass_for_the_old_one(
    engine: str, make: Callable[[str], Awaitable[Foreign]]
) -> None:
    """Its numbers begin again, and its messages must not be taken for copies of the old ones."""
    queue, identities = await make(engine), list[str | None]()
    for _ in range(2):
        await queue.send(orders(range(20)))
        async with queue.source() as source:
            identities += [message.identity for message in await _take(source, 20)]
        await queue.drop()
        await queue.make()
    assert len(set(identities)) == 40


async def test_messages_of_rabbitmq_are_told_apart_by_id_and_body(
    make: Callable[[str], Awaitable[RabbitmqQueue]],
) -> None:
    queue = await make("rabbitmq")
    async with await aio_pika.connect(queue.server.amqp_url) as connection:
        channel = await connection.channel()
        for body, id_ in ((b"1", "a"), (b"1", "a"), (b"2", "a"), (b"1", "b")):
            await channel.default_exchange.publish(aio_pika.Message(body, message_id=id_), queue.name)
    async with queue.source() as source:
        same, again, other_body, other_id = [message.identity for message in await _take(source, 4)]
    assert same == again
    assert len({same, other_body, other_id}) == 3
    async with queue.source(identity="body") as source:
        assert len({message.identity for message in await _take(source, 4)}) == 2


async def test_a_message_of_rabbitmq_without_an_id_has_no_identity_unless_its_body_is_one(
    make: Callable[[str], Awaitable[RabbitmqQueue]],
) -> None:
    queue = await make("rabbitmq")
    # aio-pika gives every message an id, so these go by hand.
    link = Link(
        [("127.0.0.1", queue.server.port)],
        Login("guest", "guest", "/", None),
        purpose="test",
        timeout=10,
        heartbeat=10,
        clock=SystemClock(),
    )
    link.open()
    channel = await link.channel(RabbitmqIntake(link, IntakeOptions()))
    for body in (b"1", b"2"):
        parts = frames.content(channel.number, b"text/plain", frames.table({}), body, 100_000)
        channel.send(b"".join((frames.publish(channel.number, queue.name), *parts)))
    async with queue.source() as source:
        assert [message.identity for message in await _take(source, 2)] == [None, None]
    async with queue.source(identity="body") as source:
        first, second = await _take(source, 2)
    assert first.identity != second.identity
    assert None not in (first.identity, second.identity)
    await link.close()


@pytest.mark.parametrize("beside", [{}, {"headers": {"a": 1}}, {"headers": {"a": [1, {"b": "c"}]}, "priority": 3}])
@pytest.mark.parametrize("more", [{}, {"correlation_id": "c", "reply_to": "r", "expiration": "60000"}])
def test_the_message_id_is_found_among_all_properties(beside: dict[str, Any], more: dict[str, Any]) -> None:
    given = commands.Basic.Properties(
        content_type="text/plain",
        content_encoding="gzip",
        delivery_mode=2,
        message_id="m-ü",
        app_id="a",
        **beside,
        **more,
    )
    # As it travels: a content header behind seven bytes of frame, and before the frame's end.
    payload = frame.marshal(header.ContentHeader(0, 5, given), 1)[7:-1]
    assert frames.message_id(payload) == "m-ü"
    assert frames.properties(payload) == ("text/plain", beside.get("headers", {}))
    without = frame.marshal(header.ContentHeader(0, 5, commands.Basic.Properties(content_type="a/b", **beside)), 1)
    assert frames.message_id(without[7:-1]) is None


async def test_members_of_a_group_share_a_topic_of_kafka_and_take_over_from_one_that_leaves(
    make: Callable[[str], Awaitable[KafkaTopic]],
) -> None:
    queue = await make("kafka")
    taken: list[list[str | None]] = [[], []]
    leaving, left = asyncio.Event(), asyncio.Event()

    async def member(n: int) -> None:
        async with queue.source() as source:
            while not (n == 0 and leaving.is_set()):
                try:
                    async with asyncio.timeout(0.3):
                        found = await source.next(3)
                except TimeoutError:
                    if n == 1 and left.is_set() and await queue.open() == 0:
                        return
                    continue
                taken[n] += [message.identity for message in found]
                await source.acknowledge()
        left.set()

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        members = [group.create_task(member(n)) for n in (0, 1)]
        total = 0
        while not all(taken):
            await queue.send(orders(range(total, total + 30)))
            total += 30
        leaving.set()
        await members[0]
        await queue.send(orders(range(total, total + 30)))
        total += 30
    assert len(set(taken[0]) | set(taken[1])) == total
    assert None not in taken[0]


async def _take(source: IntakeSource, count: int) -> list[ForeignMessage]:
    found: list[ForeignMessage] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < count:
            found += await source.next(count - len(found))
    return found


async def _is(ask: Callable[[], Awaitable[object]], value: object) -> bool:
    return await ask() == value


async def _are(ask: Callable[[], Awaitable[list[int]]], numbers: Sequence[int]) -> bool:
    return sorted(await ask()) == list(numbers)


async def _has(ask: Callable[[], Awaitable[list[int]]], number: int) -> bool:
    return number in await ask()


async def _has_all(ask: Callable[[], Awaitable[list[int]]], count: int) -> bool:
    return set(await ask()) >= set(range(count))


async def _holds(condition: Callable[[], bool]) -> bool:
    return condition()
