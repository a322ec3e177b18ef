"""The intake port: a foreign queue whose messages are taken in, and acknowledged only once they are accepted.

Where other systems publish into queues of their own (a RabbitMQ queue, a Kafka topic partitioned by somebody else's rule, a
NATS work queue) order, retries and redelivery are those of that queue. An intake moves its messages into the service's
outbox, from where they reach the log like any event; from there on Millstream's promises hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import msgspec

__all__ = ["ForeignMessage", "IntakeSource"]


class ForeignMessage(msgspec.Struct, frozen=True):
    """One message of a foreign queue.

    identity: the same for every delivery of this message and for no other (Kafka: topic, partition and offset; JetStream:
    stream and sequence; AMQP: the message id that its producer gave). None: a redelivery cannot be told from a new message.
    key: what orders it, if the queue knows one. attributes: CloudEvents attributes of binary mode, without the binding's
    prefix; empty where the body is all there is.
    """

    body: bytes
    identity: str | None = None
    key: str | None = None
    content_type: str | None = None
    attributes: Mapping[str, str] = {}


class IntakeSource(Protocol):
    """One foreign queue, read by this process. Open with `async with`; not shared between tasks."""

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        """Wait until there is a message; return up to `limit` of them, in the queue's order. Nothing of them is
        acknowledged: a process that ends here gets them again.

        Raises:
            TransportUnavailable: the queue is away; open the source again later.
            Misconfigured: there is no such queue.
        """
        ...

    async def acknowledge(self) -> None:
        """Everything that `next` returned so far is accepted: the queue may forget it. If this fails they come again.

        Raises:
            TransportUnavailable: whether the queue learned it is unknown.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
