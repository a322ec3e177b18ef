"""Foreign queues on real engines: what a plain client sends becomes events, once, whoever dies in between.

Run as a program this file is a service that is killed with a message in hand: `python test_intakes.py WHEN URL FOLDER`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import aio_pika
import nats
import nats.js.api
import pytest
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage] - this is where its documentation has them
from millstream import Event, Service, Tx
from millstream.binary_mode import STRUCTURED
from millstream.clock import SystemClock
from millstream.errors import Misconfigured, TransportUnavailable
from millstream.ids import SystemEntropy
from millstream.ports.instrumentation import Field, Silent
from millstream.ports.intake import ForeignMessage, IntakeSource
from millstream.runtime.adapters import AdapterContext, open_intake
from millstream.runtime.runtime import Composition, Runtime
from millstream.stores.sqlite import SqliteStore
from millstream.testing.engines.kafka import KafkaServer
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.rabbitmq import RabbitmqServer
from millstream.testing.engines.server import EngineServer, free_port
from millstream.transports.log import open_transport
from millstream.transports.rabbitmq import frames
from millstream.transports.rabbitmq.connection import Login
from millstream.transports.rabbitmq.intake import IntakeOptions, RabbitmqIntake
from millstream.transports.rabbitmq.link import Link
from pamqp import commands, frame, header

PATIENCE_SECONDS = 60.0
ENGINES = ["rabbitmq", "kafka", "nats"]
PREFETCH = 20


class Sent(NamedTuple):
    """What a foreign client sends. attributes: headers of CloudEvents in binary mode, without prefix."""

    body: bytes
    content_type: str | None = None
    attributes: Mapping[str, str] = MappingProxyType({})


class LegacyOrder(Event, topic="legacy", key="order"):
    order: str
    total: int


def shop(folder: Path) -> Service:
    migrations = folder / "sql"
    migrations.mkdir(exist_ok=True)
    (migrations / "0001_seen.sql").write_text("CREATE TABLE seen (n INTEGER PRIMARY KEY, key TEXT, total INTEGER)")
    service = Service("shop", migrations=str(migrations))
    service.take_in(LegacyOrder, name="legacy")

    @service.on(LegacyOrder, name="keep", after_dead_letter="go_on")
    async def keep(event: LegacyOrder, tx: Tx) -> None:
        await tx.execute("INSERT INTO seen (key, total) VALUES (?, ?)", event.order, event.total)

    return service


class Hasty(SystemEntropy):
    """Tries again soon, so that a test need not wait out what is good for an engine that comes back."""

    def random(self) -> float:
        return super().random() * 0.02


class Running:
    """The service, on SQLite and the embedded log, with a source of messages."""

    def __init__(self, folder: Path, source: Callable[[], IntakeSource]) -> None:
        clock = SystemClock()
        self.store = SqliteStore(folder / "shop.db", clock=clock, synchronous="OFF")
        self.folder = folder
        self.composition = Composition(
            open_store=lambda _: self.store,
            transport=open_transport("log", context(folder)),
            data=folder,
            clock=clock,
            entropy=Hasty(),
            open_intake=lambda _: source(),
            partitions=2,
        )

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Self]:
        async with Runtime([shop(self.folder)], self.composition):
            yield self

    async def seen(self) -> list[int]:
        return [row[0] for row in await self.store.query("SELECT total FROM seen ORDER BY n")]

    async def letters(self) -> list[str]:
        return [row[0] for row in await self.store.query("SELECT reason FROM millstream_dead_letters")]


def context(folder: Path = Path()) -> AdapterContext:
    return AdapterContext(folder, SystemClock(), Silent())


async def until(condition: Callable[[], Awaitable[object]], seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - it changes in an engine
            await asyncio.sleep(0.005)


def orders(numbers: Sequence[int]) -> list[Sent]:
    return [Sent(b'{"order": "o-%d", "total": %d}' % (n % 7, n)) for n in numbers]


# -- plain clients --------------------------------------------------------------------------------------------------


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
        return f"{self.server.url}?topic={self.name}&group={self.name}-intake&session={session}&wait=5s"

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


class Dying:
    """A source whose process is killed with messages in hand.

    when: `returned`, before they are accepted; `accepted`, before they are acknowledged; `eager` is `returned` without the
    safeguard: it acknowledges before they are accepted.
    """

    def __init__(self, source: IntakeSource, when: str) -> None:
        self._source = source
        self._when = when

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        found = await self._source.next(limit)
        if self._when == "eager":
            await self._source.acknowledge()
            await asyncio.sleep(0.2)  # the bytes are on their way: the kill must not overtake them
        if self._when in ("returned", "eager"):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    async def acknowledge(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def __aenter__(self) -> Self:
        await self._source.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._source.__aexit__(kind, error, trace)


async def live_until_killed(when: str, url: str, folder: Path) -> None:
    async with Running(folder, lambda: Dying(open_intake(url, context()), when))():
        await asyncio.sleep(PATIENCE_SECONDS)


async def _die(when: str, queue: Foreign, folder: Path) -> None:
    command = [sys.executable, __file__, when, queue.url, str(folder)]
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


class Small:
    """A source that gives a few messages at a time, so that there is time to kill the engine in between."""

    def __init__(self, source: IntakeSource, rounds: list[int]) -> None:
        self._source = source
        self._rounds = rounds

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        found = await self._source.next(5)
        self._rounds.append(len(found))
        return found

    async def acknowledge(self) -> None:
        await self._source.acknowledge()

    async def __aenter__(self) -> Self:
        await self._source.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._source.__aexit__(kind, error, trace)


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

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guide" / "intakes.md"


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
            "kafka://u:s3cret@?colour=red&session=0s&wait=soon&sasl=none&ca=/nowhere",
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


if __name__ == "__main__":
    asyncio.run(live_until_killed(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
