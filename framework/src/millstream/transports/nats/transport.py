"""The transport port on NATS JetStream: a stream per topic, a subject per partition, the stream's sequence as position.

What a confirmed record survives is decided by the server: `sync_interval: always` writes through before it confirms, and the
default of two minutes does not. Clients cannot read that setting, so the operator states it in the URL (`sync=always`).

Left to the caller: an account of its own, or at least topics whose subjects nobody else uses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, final

import msgspec

from ...clock import Clock, SystemClock, seconds
from ...errors import MillstreamError, Misconfigured, TransportUnavailable
from ...message import Record
from ...ports.instrumentation import Instrumentation, Silent
from ...ports.transport import Bounds, Durability, Reader, TransportCapabilities
from .connection import Address, Connection, Login, ServerInfo, version_of
from .jetstream import JetStream
from .publishing import HEADROOM_BYTES, Publisher, largest_record_bytes
from .reader import NatsReader
from .retention import FLOORS, Retention, floors_in
from .topics import Topic, Topics
from .wire import escape

__all__ = ["NatsOptions", "NatsTransport"]

OLDEST_SERVER = (2, 10)
"""Stream metadata, named consumers and `num_replicas` of a consumer are ignored without a word by older ones."""
DEFAULT_MAX_PAYLOAD = 1024 * 1024
NEXT_ATTEMPT_SECONDS = 0.2
"""After every server was tried in vain, those who come within this time are told the same."""


class NatsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How records are kept, and how long to wait.

    keep: records stay at least this long after they were written. replicas: copies of each stream; 3 in a cluster.
    sync: what the servers' `sync_interval` is, `always` or a duration; empty while nobody says.
    batches: publish in atomic batches where the server has them (2.12).
    timeout: until a publish or a question fails.
    """

    keep: str | float = "3d"
    replicas: int = 1
    sync: str = ""
    batches: bool = True
    timeout: str | float = "5s"


@final
class NatsTransport:
    """A log on one NATS server or cluster. Open with `async with`.

    servers: where to connect, in any order; further members of the cluster are learned from it.
    """

    def __init__(
        self,
        servers: Sequence[Address],
        *,
        login: Login = Login(),  # noqa: B008 - immutable
        clock: Clock | None = None,
        instrumentation: Instrumentation | None = None,
        options: NatsOptions = NatsOptions(),  # noqa: B008 - immutable
    ) -> None:
        self._servers = tuple(servers)
        self._login = login
        self._options = options
        self._instrumentation = instrumentation or Silent()
        timeout = seconds(options.timeout)
        self.jetstream = JetStream(self.connection, timeout)
        self.topics = Topics(self.jetstream, options.replicas, options.batches)
        self._publisher = Publisher(self.connection, self._spawn, self.topics, timeout)
        self._retention = Retention(
            self.jetstream,
            self.connection,
            clock or SystemClock(),
            self._instrumentation,
            seconds(options.keep),
            options.replicas,
        )
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._failure: tuple[float, MillstreamError] | None = None
        self._discovered: tuple[Address, ...] = ()
        self._readers: set[NatsReader] = set()
        self._largest = DEFAULT_MAX_PAYLOAD - HEADROOM_BYTES
        self._open = False

    @property
    def capabilities(self) -> TransportCapabilities:
        return TransportCapabilities(
            name="nats",
            survives_restart=True,
            several_processes=True,
            retention_by_position=True,
            largest_record_bytes=self._largest,
            batch_is_atomic=False,  # few travel singly, and many in several batches
        )

    async def durability(self) -> Durability:
        self.check_open()
        problems: list[str] = []
        survives_crash = True
        for name in tuple(self.topics.known):
            topic = await self.topics.find(name)
            if topic is None:
                continue
            if topic.memory_only or topic.persists_late:
                survives_crash = False
                setting = (
                    "storage is memory; it needs file"
                    if topic.memory_only
                    else "persist_mode is async; it needs default"
                )
                problems.append(f"stream {topic.stream}: {setting}")
            if topic.replicas < self._options.replicas:
                problems.append(
                    f"stream {topic.stream} has {topic.replicas} replicas, the URL asks for {self._options.replicas}"
                )
        if self._options.sync != "always":
            said = f"the URL says {self._options.sync}" if self._options.sync else "no client can read it"
            problems.append(
                f"sync_interval must be always ({said}): set `jetstream {{ sync_interval: always }}` on every server, "
                "and state it with ?sync=always"
            )
        return Durability(process_crash=survives_crash, power_loss=not problems, why_not="; ".join(problems))

    # -- topics -------------------------------------------------------------------------------------------------

    async def provision(self, topic: str, partitions: int) -> None:
        self.check_open()
        await self.topics.provision(topic, partitions)
        await self._retention.provision()

    async def partitions(self, topic: str) -> int | None:
        self.check_open()
        found = self.topics.known.get(topic) or await self.topics.find(topic)
        return None if found is None else found.partitions

    async def bounds(self, topic: str, partition: int) -> Bounds:
        self.check_open()
        # The state first: floors are written before anything is deleted, so that these are as new as what it shows.
        found, state = await self.topics.state(topic)
        subject = found.subject(partition)
        floors = await self._retention.floors(found)
        earliest, first = floors.get(partition, 0), state["first_seq"]
        if first - 1 > max(floors.values(), default=0):
            # Records are gone that we did not delete: a limit or a purge of an operator. Of which partitions nobody knows.
            earliest = max(earliest, first - 1)
        last = await self.jetstream.last_message(found.stream, subject)
        return Bounds(earliest=earliest, latest=max(earliest, last.seq))

    # -- records ------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        self.check_open()
        return await self._publisher.publish(topic, partition, records)

    def read(self, topic: str, partition: int, after: int) -> Reader:
        reader = NatsReader(self, topic, partition, after)
        self._readers.add(reader)
        return reader

    @property
    def reading(self) -> int:
        """How many readers share the prefetch."""
        return len(self._readers)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.create_task(work)

    def start(self, reader: NatsReader) -> asyncio.Task[MillstreamError | None]:
        """Open a reader's consumer in a task of the transport, which gives the error instead of raising it."""

        async def outcome() -> MillstreamError | None:
            try:
                await reader.open()
            except MillstreamError as error:
                return error
            return None

        return self._tasks.create_task(outcome())

    def stopped(self, reader: NatsReader) -> None:
        """A reader is closed."""
        self._readers.discard(reader)

    # -- marks and retention ------------------------------------------------------------------------------------

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        self.check_open()
        found = await self.topics.get(topic)
        found.subject(partition)
        await self._retention.mark(subscription, found, partition, position)

    async def unmark(self, subscription: str, topic: str) -> None:
        self.check_open()
        await self._retention.unmark(subscription, await self.topics.get(topic))

    async def retain(self) -> None:
        """Delete now what may go. It happens by itself every quarter of a minute.

        Raises:
            TransportUnavailable: the log is closed or away.
        """
        self.check_open()
        await self._retention.sweep(self._known())

    def _known(self) -> tuple[Topic, ...]:
        return tuple(self.topics.known.values())

    def _on_floors(self, words: list[bytes], headers: bytes, body: bytes) -> None:
        stream = words[0].decode().rpartition(".")[2]
        try:
            floors = floors_in(body)
        except Misconfigured:
            return  # not written by us: what is in the bucket counts when a consumer is opened
        for reader in self._readers:
            if escape(reader.topic) == stream:
                reader.raise_floor(floors.get(reader.partition, 0))

    # -- the connection -----------------------------------------------------------------------------------------

    async def connection(self) -> Connection:
        """The connection in use, or a new one.

        Raises:
            TransportUnavailable: closed, or no server can be reached now.
        """
        self.check_open()
        if self._connection is None or self._connection.lost_because is not None:
            async with self._connecting:
                if self._connection is None or self._connection.lost_because is not None:
                    self._connection = await self._connect()
        return self._connection

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._failure is not None and loop.time() < self._failure[0]:
            raise TransportUnavailable(str(self._failure[1]))
        candidates = random.sample(self._servers, len(self._servers))
        candidates += [address for address in self._discovered if address not in candidates]
        failures: list[MillstreamError] = []
        for address in candidates:
            self.check_open()
            try:
                connection = await Connection.open(address, self._login, "millstream")
            except (TransportUnavailable, Misconfigured) as error:
                failures.append(error)
                continue
            return self._adopt(connection)
        problem = "; ".join(str(error) for error in failures)
        self._failure = (loop.time() + NEXT_ATTEMPT_SECONDS, TransportUnavailable(problem))
        if all(isinstance(error, Misconfigured) for error in failures):
            raise Misconfigured([str(error) for error in failures])
        raise TransportUnavailable(problem)

    def _adopt(self, connection: Connection) -> Connection:
        if not self._open:
            connection.close()
            self.check_open()
        self._failure = None
        self._learn(connection.info)
        connection.on_info = self._learn
        connection.subscribe(f"{FLOORS}.*".encode(), self._on_floors)
        return connection

    def _learn(self, info: ServerInfo) -> None:
        found = [address.rpartition(":") for address in info.connect_urls]
        self._discovered = tuple((host.strip("[]"), int(port)) for host, _, port in found if port.isdigit())

    # -- opening and closing ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._open = True
        self._failure = None
        try:
            info = (await self.connection()).info
            if version_of(info) < OLDEST_SERVER:
                raise Misconfigured(
                    f"NATS server {info.version} is too old: it needs 2.10 or later, better 2.12 or later"
                )
            self._largest = largest_record_bytes(info.max_payload)
            await self.jetstream.ask("INFO")
        except BaseException:
            await self._disconnect()
            raise
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._housekeeper = self._tasks.create_task(self._retention.keep_house(self._known))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._housekeeper.cancel()
        with suppress(TransportUnavailable, Misconfigured):  # a mark that is not written only keeps records for longer
            await self._retention.save()
        for reader in tuple(self._readers):
            await reader.aclose()
        await self._disconnect()
        await self._tasks.__aexit__(None, None, None)

    async def _disconnect(self) -> None:
        self._open = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close("the log is closed")
            await connection.wait_closed()

    def check_open(self) -> None:
        """Raises: TransportUnavailable: the log is closed."""
        if not self._open:
            raise TransportUnavailable("the NATS log is closed")
