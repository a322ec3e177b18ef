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

    identity: the same for every delivery of this message and for no other. A number that the engine counts is not enough,
    because a topic or stream that is deleted and made again counts from the beginning: Kafka's is topic, partition, offset
    and timestamp, JetStream's stream, sequence and timestamp, AMQP's the message id that the producer gave, with the body.
    None: a redelivery cannot be told from a new message.
    key: what orders it, if the queue knows one. content_type: of the body, if the queue says; structured CloudEvents are
    known by it. attributes: CloudEvents attributes of binary mode, without the binding's prefix; empty where the body is
    all there is.
    """

    body: bytes
    identity: str | None = None
    key: str | None = None
    content_type: str | None = None
    attributes: Mapping[str, str] = {}


class IntakeSource(Protocol):
    """One foreign queue, read by this process. Open with `async with`; not shared between tasks, and of no use after an
    error. Leaving gives back to the queue what was not acknowledged, as far as the engine can be told.

    The caller may take long between two calls, as when its store is away. Where the engine would lose its patience and
    deliver again, the adapter asks it for more time.
    """

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        """Wait until there is a message; return up to `limit` of them, in the queue's order. Nothing of them is
        acknowledged: a process that ends here gets them again. No more are held beforehand than a bound of the adapter.
        Cancelling loses none.

        Raises:
            TransportUnavailable: the queue is away; open the source again later.
            Misconfigured: there is no such queue, or it is none that can be taken in without loss.
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
