"""Taking in a JetStream stream that others fill: `nats://host:4222?stream=ORDERS&consumer=millstream`.

Stream and consumer are made by whoever owns them. It is a durable pull consumer with explicit acknowledgements, and the
stream usually a work queue (`retention: workqueue`), which forgets what is acknowledged; several processes may share one.

A message is acknowledged after it was accepted, the last one of a round so that the server answers: it handles them in
order, so that then it has all of them. Until then it is ours, and before the consumer's `ack_wait` is over we ask for more
time. What was not accepted at an orderly end is given back, and comes again at once.

A redelivery is recognised by stream, sequence and time of storage. No more than `prefetch` messages are here unacknowledged,
and never more than the consumer's `max_ack_pending`.

Left to the consumer's owner: `max_deliver` must be unlimited, since JetStream never delivers a message again that reached it
(the log says so when it is not), and order: after a crash JetStream sends what was open behind newer messages, unless
`max_ack_pending` is 1.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, final

import msgspec

from ...clock import Clock, Handle, seconds
from ...errors import Misconfigured, TransportUnavailable
from ...ports.instrumentation import Instrumentation
from ...ports.intake import ForeignMessage
from .connection import Address, Connection, Login
from .jetstream import ApiError, Code, JetStream, is_no_responders
from .url import read_url
from .wire import foreign

__all__ = ["IntakeOptions", "NatsIntake", "open_intake"]

EXPIRES_SECONDS = 30.0
HEARTBEAT_SECONDS = 2.0
SILENCE_SECONDS = 6.5
"""Without a message or a heartbeat for this long the consumer's server is taken for dead."""
PULL_BYTES = 4 * 1024 * 1024
MIN_PATIENCE_SECONDS = 0.1


class IntakeOptions(msgspec.Struct, frozen=True):
    """Options of the URL."""

    stream: str = ""
    consumer: str = ""
    prefetch: int = 400
    """Messages that are here and not accepted yet: two rounds of an intake. Each request is bounded by 4 MiB, too."""
    timeout: str | float = "5s"
    """How long a question to the server may take."""


class IntakeContext(Protocol):
    """What the runtime hands to the factory."""

    @property
    def clock(self) -> Clock: ...
    @property
    def instrumentation(self) -> Instrumentation: ...


class _Config(msgspec.Struct, frozen=True):
    """What is read of a consumer's configuration. Durations are nanoseconds; 0 is none."""

    deliver_subject: str = ""
    ack_policy: str = "none"
    ack_wait: int = 30_000_000_000
    backoff: list[int] = []
    max_deliver: int = -1
    max_ack_pending: int = -1
    max_batch: int = 0
    max_expires: int = 0
    max_bytes: int = 0


def open_intake(url: str, context: IntakeContext) -> NatsIntake:
    """Entry point: `nats://one:4222,two:4222?stream=ORDERS&consumer=millstream&prefetch=100`.

    Options: those of `IntakeOptions`, and `tls=on`, `tls_ca`, `tls_cert`, `tls_key` (files) for a connection with TLS.

    Raises:
        Misconfigured: everything that is wrong with the URL. It does not show the password.
    """
    read = read_url(url, "intake")
    options = IntakeOptions()
    try:
        given = read.refuse_unknown(IntakeOptions.__struct_fields__)
        options = msgspec.convert(given, IntakeOptions, strict=False)
        read.problems.extend(_unusable(options))
    except msgspec.ValidationError as error:
        read.problems.append(str(error))
    read.check()
    return NatsIntake(read.servers, read.login, options, clock=context.clock, instrumentation=context.instrumentation)


def _unusable(options: IntakeOptions) -> list[str]:
    problems: list[str] = []
    for option, name in (("stream", options.stream), ("consumer", options.consumer)):
        if not name:
            problems.append(f"say which {option}: {option}=NAME")
        elif any(c in " .*>/\\" for c in name):
            problems.append(f"{option}={name}: no {option} is called so: names have no spaces and none of . * > / \\")
    if options.prefetch < 1:
        problems.append(f"prefetch={options.prefetch}; it is at least 1")
    try:
        if seconds(options.timeout) <= 0:
            problems.append("timeout must be more than 0")
    except Misconfigured as error:
        problems.append(f"timeout: {error}")
    return problems


class _Held(msgspec.Struct, gc=False):
    """A message that is here. reply: where its acknowledgement goes."""

    reply: bytes
    headers: bytes
    body: bytes


@final
class NatsIntake:
    """One consumer on one connection. When that is lost, the caller opens another intake."""

    def __init__(
        self,
        servers: Sequence[Address],
        login: Login,
        options: IntakeOptions,
        *,
        clock: Clock,
        instrumentation: Instrumentation,
    ) -> None:
        self._servers = servers
        self._login = login
        self._options = options
        self._clock = clock
        self._instrumentation = instrumentation
        self._timeout = seconds(options.timeout)
        self._config = _Config()
        self._prefetch = options.prefetch
        self._connection: Connection | None = None
        self._inbox = b""
        self._number = b""
        self._attached = False
        self._buffer: deque[_Held] = deque()
        self._returned: list[_Held] = []
        self._owed = 0
        """How many messages the server was asked for and has not sent."""
        self._heard_at = 0.0
        self._patience: Handle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failed = ""

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        if not self._attached:
            await self._attach()
        while not self._buffer:
            self._check()
            self._ask_for_more()
            await self._wait()
        self._check()
        found = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
        self._returned += found
        return [self._message(held) for held in found]

    async def acknowledge(self) -> None:
        connection = self._check()
        returned, self._returned = self._returned, []
        if not returned:
            return
        last = returned[-1].reply
        reply, answer = connection.expect(last.decode())
        frames = [b"PUB %s 4\r\n+ACK\r\n" % held.reply for held in returned[:-1]]
        connection.write(b"".join((*frames, b"PUB %s %s 4\r\n+ACK\r\n" % (last, reply))))
        self._ask_for_more()
        headers, _ = await connection.answer("an acknowledgement", answer, self._timeout)
        if is_no_responders(headers):
            raise TransportUnavailable(f"{self._name}: nobody takes acknowledgements: the consumer was deleted")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._patience is not None:
            self._patience.cancel()
        connection = self._connection
        if connection is None:
            return
        connection.on_lost.discard(self._on_lost)
        if self._attached and connection.lost_because is None:
            connection.unsubscribe(self._number)  # first, or what is given back would be sent to us again
            given_back = [b"PUB %s 4\r\n-NAK\r\n" % held.reply for held in (*self._returned, *self._buffer)]
            connection.write(b"".join(given_back))
        connection.close("the intake is closed")
        await connection.wait_closed()

    # -- the consumer -------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"intake: consumer {self._options.consumer!r} of stream {self._options.stream!r}"

    async def _attach(self) -> None:
        connection = await self._connect()
        jetstream = JetStream(self._connect, self._timeout)
        try:
            info = await jetstream.ask(f"CONSUMER.INFO.{self._options.stream}.{self._options.consumer}")
        except ApiError as error:
            if error.code in (Code.STREAM_NOT_FOUND, Code.CONSUMER_NOT_FOUND):
                raise Misconfigured(f"{self._name}: {error.description}; its owner has to make it") from error
            raise
        self._use(msgspec.convert(info["config"], _Config))
        self._inbox = b"%s.intake" % connection.inbox
        self._number = connection.subscribe(self._inbox, self._on_message)
        connection.on_lost.add(self._on_lost)
        self._attached = True
        self._heard_at = self._clock.monotonic()
        self._ask_for_patience()

    async def _connect(self) -> Connection:
        if self._connection is not None:
            self._check()
            return self._connection
        failures: list[TransportUnavailable | Misconfigured] = []
        for address in self._servers:
            try:
                self._connection = await Connection.open(address, self._login, "millstream intake")
            except (TransportUnavailable, Misconfigured) as error:
                failures.append(error)
            else:
                return self._connection
        if all(isinstance(error, Misconfigured) for error in failures):
            raise Misconfigured([str(error) for error in failures])
        raise TransportUnavailable("; ".join(str(error) for error in failures))

    def _use(self, config: _Config) -> None:
        """Raises:
        Misconfigured: messages could get lost, or cannot be had.
        """
        if config.deliver_subject:
            raise Misconfigured(f"{self._name} pushes to {config.deliver_subject!r}: make a pull consumer")
        if config.ack_policy != "explicit":
            raise Misconfigured(
                f"{self._name} has ack_policy {config.ack_policy!r}; with any other than 'explicit' messages count as done "
                "that nobody has accepted"
            )
        if config.max_deliver > 0:
            self._instrumentation.log(
                "warning",
                "intake_too_weak",
                stream=self._options.stream,
                consumer=self._options.consumer,
                why=f"max_deliver is {config.max_deliver}, it needs -1: a message is never delivered again after so many times",
            )
        self._config = config
        if config.max_ack_pending > 0:
            self._prefetch = min(self._prefetch, config.max_ack_pending)

    def _ask_for_more(self) -> None:
        """Keep the prefetch filled, in halves."""
        here = self._owed + len(self._buffer) + len(self._returned)
        connection, config = self._connection, self._config
        if connection is None or here * 2 > self._prefetch:
            return
        batch = self._prefetch - here
        if config.max_batch > 0:
            batch = min(batch, config.max_batch)
        expires = round(EXPIRES_SECONDS * 1e9)
        if config.max_expires > 0:
            expires = min(expires, config.max_expires)
        size = max(PULL_BYTES, 2 * connection.info.max_payload)
        if config.max_bytes > 0:
            size = min(size, config.max_bytes)
        heartbeat = min(round(HEARTBEAT_SECONDS * 1e9), expires // 3)
        question = {"batch": batch, "max_bytes": size, "expires": expires, "idle_heartbeat": heartbeat}
        ask = f"$JS.API.CONSUMER.MSG.NEXT.{self._options.stream}.{self._options.consumer}".encode()
        body = msgspec.json.encode(question)
        connection.write(b"PUB %s %s %d\r\n%s\r\n" % (ask, self._inbox, len(body), body))
        self._owed += batch

    def _ask_for_patience(self) -> None:
        """Nothing that is here is delivered to somebody else, however long its acceptance takes."""
        connection = self._connection
        if self._failed or connection is None:
            return
        here = (*self._returned, *self._buffer)
        if here:
            connection.write(b"".join(b"PUB %s 4\r\n+WPI\r\n" % held.reply for held in here))
        wait = min(self._config.ack_wait, *self._config.backoff) if self._config.backoff else self._config.ack_wait
        self._patience = self._clock.call_later(max(MIN_PATIENCE_SECONDS, wait / 3e9), self._ask_for_patience)

    async def _wait(self) -> None:
        """Until something came, or silence went on for too long."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._waiter
        except TimeoutError:
            if self._owed and self._clock.monotonic() - self._heard_at > SILENCE_SECONDS:
                self._fail(f"silent for {SILENCE_SECONDS:g} s")
        finally:
            self._waiter = None

    def _check(self) -> Connection:
        """The connection.

        Raises:
            TransportUnavailable: nothing comes any more, and nothing can be acknowledged.
        """
        if self._connection is None or self._connection.lost_because is not None:
            why = None if self._connection is None else self._connection.lost_because
            raise TransportUnavailable(f"{self._name}: {self._failed or why or 'not open'}")
        if self._failed:
            raise TransportUnavailable(f"{self._name}: {self._failed}")
        return self._connection

    # -- what comes in ------------------------------------------------------------------------------------------

    def _on_message(self, words: list[bytes], headers: bytes, body: bytes) -> None:
        self._heard_at = self._clock.monotonic()
        if words[0] == self._inbox:  # of the server itself; messages come under their own subject
            self._on_status(headers)
            return
        self._owed -= 1
        self._buffer.append(_Held(words[2], headers, body))
        self._wake()

    def _on_status(self, headers: bytes) -> None:
        status, _, rest = headers[9:].partition(b"\r\n")
        code = status[:3]
        if code == b"100":
            return
        if code in (b"404", b"408") or b"MaxBytes" in status or b"Batch Completed" in status:
            # A question ended with messages still owed: they are not owed any more.
            for line in rest.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.strip().lower() == b"nats-pending-messages" and value.strip().isdigit():
                    self._owed = max(0, self._owed - int(value))
            self._wake()
            return
        self._fail(status.decode(errors="replace"))

    def _message(self, held: _Held) -> ForeignMessage:
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>, and in its second
        # form domain and account before the stream.
        tokens = held.reply.split(b".")
        at = 5 if len(tokens) < 11 else 7
        identity = f"{self._options.stream}/{tokens[at].decode()}/{tokens[at + 2].decode()}"
        read = foreign(held.headers)
        key = read.attributes.get("partitionkey") if read.key is None else read.key
        return ForeignMessage(held.body, identity, key, read.content_type, read.attributes)

    def _on_lost(self) -> None:
        self._fail("the connection is lost")

    def _fail(self, why: str) -> None:
        self._failed = self._failed or why
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
