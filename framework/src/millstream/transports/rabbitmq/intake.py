"""Taking in a RabbitMQ queue that others publish to: `rabbitmq://user:password@host/shop?queue=legacy-orders`.

Made for quorum queues; a classic queue is read just as well. A stream is refused, because a consumer of it begins where
the stream ends: what was published before would be lost.

Every message is acknowledged by us and only after it was accepted. Until then RabbitMQ keeps it for this consumer, at most
`prefetch` of them, and delivers it again when the connection is lost. What was not accepted at an orderly end is given
back, so that it comes again at once; that does not count against the queue's delivery limit (RabbitMQ 4), losing the
connection may. A limit that drops is the queue owner's to remove: `x-delivery-limit: -1`, or a dead letter exchange.

A redelivery is recognised by the message id that its producer gave, together with the body: producers number their
messages each for itself, so an id alone may come twice. Without an id it is taken for a new message; where no two
messages have the same body, `identity=body` recognises it.

Left to the queue's owner: order. Several consumers share the messages as they come; `x-single-active-consumer` gives them
to one at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from struct import error as StructError  # noqa: N812 - a class, whatever its name
from types import TracebackType
from typing import Literal, Protocol, Self, final

import msgspec
from pamqp import commands, frame

from ...clock import Clock, seconds
from ...errors import Misconfigured, TransportUnavailable
from ...ports.intake import ForeignMessage
from .connection import Channel, Closed, RefusedByServer
from .frames import ack, message_id, properties
from .link import Link, no_queue, translated
from .url import read_url, wrong_durations
from .wire import OFFSET, attributes_in

__all__ = ["IntakeOptions", "RabbitmqIntake", "open_intake"]

_CONSUMER = "millstream"
"""The consumer's name on its channel."""


class IntakeOptions(msgspec.Struct, frozen=True):
    """Options of the URL."""

    queue: str = ""
    prefetch: int = 400
    """Messages that are here and not accepted yet: two rounds of an intake. Times the largest message, the bound on memory."""
    identity: Literal["message-id", "body"] = "message-id"
    timeout: str | float = "10s"
    """How long a question to the broker may take."""
    heartbeat: str | float = "10s"
    """A broker that is silent for two of them counts as away."""


class IntakeContext(Protocol):
    """What the runtime hands to the factory."""

    @property
    def clock(self) -> Clock: ...


def open_intake(url: str, context: IntakeContext) -> RabbitmqIntake:
    """Entry point: `rabbitmq://user:password@one,two/shop?queue=legacy-orders&prefetch=100`.

    Options: those of `IntakeOptions`, and `tls=on`, `tls_ca`, `tls_cert`, `tls_key` (files) for a connection with TLS.

    Raises:
        Misconfigured: everything that is wrong with the URL. It does not show the password.
    """
    read = read_url(url, "intake")
    options = IntakeOptions()
    try:
        given = read.refuse_unknown(IntakeOptions.__struct_fields__)
        options = msgspec.convert(given, IntakeOptions, strict=False)
        read.problems.extend(wrong_durations({"timeout": options.timeout, "heartbeat": options.heartbeat}))
        if not options.queue:
            read.problems.append("say which queue: ?queue=NAME")
        if not 1 <= options.prefetch <= 65_535:
            read.problems.append(f"prefetch={options.prefetch}; it is a number from 1 to 65535")
    except msgspec.ValidationError as error:
        read.problems.append(str(error))
    read.check()
    link = Link(
        read.addresses,
        read.login,
        purpose=f"intake of {options.queue}",
        timeout=seconds(options.timeout),
        heartbeat=seconds(options.heartbeat),
        clock=context.clock,
    )
    return RabbitmqIntake(link, options)


@final
class RabbitmqIntake:
    """One consumer on one channel. When it is lost so are its delivery tags: the caller opens another intake."""

    def __init__(self, link: Link, options: IntakeOptions) -> None:
        self._link = link
        self._options = options
        self._channel: Channel | None = None
        self._delivered: deque[tuple[int, bytes, bytes]] = deque()
        self._returned = 0
        """Delivery tag of the last message that `next` returned and nobody acknowledged; 0 when there is none."""
        self._waiter: asyncio.Future[None] | None = None
        self._error: Closed | None = None

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        if self._channel is None:
            await self._attach()
        while not self._delivered:
            self._check()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        # Deliveries of a channel that is gone will come again. Without an identity, accepting them would double them.
        self._check()
        found: list[ForeignMessage] = []
        while self._delivered and len(found) < limit:
            tag, header, body = self._delivered.popleft()
            found.append(self._message(header, body))
            self._returned = tag
        return found

    async def acknowledge(self) -> None:
        self._check()
        if self._returned and self._channel is not None:
            self._channel.send(ack(self._channel.number, self._returned))
            self._returned = 0

    async def __aenter__(self) -> Self:
        self._link.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        channel = self._channel
        if channel is not None and channel.error is None:
            # No new deliveries, then what is here back to the queue. `nack`, since a `reject` would count as a failure.
            channel.send(frame.marshal(commands.Basic.Cancel(consumer_tag=_CONSUMER, nowait=True), channel.number))
            nack = commands.Basic.Nack(delivery_tag=0, multiple=True, requeue=True)
            channel.send(frame.marshal(nack, channel.number))
        await self._link.close()

    # -- Listener -------------------------------------------------------------------------------------------------

    def delivered(self, tag: int, header: bytes, body: bytes) -> None:
        self._delivered.append((tag, header, body))
        self._wake()

    def cancelled(self) -> None:
        self.closed(Closed("the broker ended the consumer: the queue was deleted, or its node left"))

    def closed(self, error: Closed) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def confirmed(self, tag: int, multiple: bool) -> None: ...

    def rejected(self, tag: int, multiple: bool) -> None: ...

    def returned(self, code: int, text: str) -> None: ...

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _attach(self) -> None:
        queue = self._options.queue
        channel = await self._link.channel(self)
        try:
            async with self._link.bounded(f"take in queue {queue}"):
                await channel.call(commands.Basic.Qos(prefetch_count=self._options.prefetch))
                await channel.call(commands.Basic.Consume(queue=queue, consumer_tag=_CONSUMER))
        except (TransportUnavailable, Misconfigured) as error:
            cause = error.__cause__
            if isinstance(cause, RefusedByServer) and no_queue(cause):
                raise Misconfigured(f"intake: there is no queue {queue!r}: {cause.text}") from error
            raise
        self._channel = channel

    def _check(self) -> None:
        """Raises:
        TransportUnavailable, Misconfigured: nothing comes any more, and nothing can be acknowledged.
        """
        self._link.check_open()
        if self._error is not None:
            raise translated(self._error, f"take in queue {self._options.queue}")

    def _message(self, header: bytes, body: bytes) -> ForeignMessage:
        try:
            content_type, headers = properties(header)
            given = message_id(header)
        except (ValueError, IndexError, StructError):  # what no client should send: its body is all that can be had
            content_type, headers, given = None, {}, None
        if OFFSET in headers:
            raise Misconfigured(
                f"intake: {self._options.queue!r} is a stream: an intake would miss what was published before it came. Give "
                "it a quorum queue, or publish to a topic of Millstream"
            )
        attributes = attributes_in(headers)
        return ForeignMessage(
            body, self._identity(given, body), attributes.get("partitionkey"), content_type, attributes
        )

    def _identity(self, given: str | None, body: bytes) -> str | None:
        if self._options.identity == "message-id" and not given:
            return None
        digest = blake2b(body, digest_size=16).hexdigest()
        return digest if self._options.identity == "body" else f"{given}/{digest}"

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
