"""The transport port: a log. Read this file first; its comments are the promises an adapter must keep.

A log holds topics, cut into partitions, each a durable sequence of records. That is all of it: no consumer groups, no
acknowledgements, no redelivery, no visibility time-outs (rule L1). Who has read how far is kept by the reading service,
in its own store, in the transaction of its own work.

Positions are integers of one partition: the first record has a position ≥ 1, later records have larger ones, gaps
are allowed. "After 0" is the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import msgspec

from ..message import Record

__all__ = ["Bounds", "Durability", "Reader", "Transport", "TransportCapabilities"]


class Durability(msgspec.Struct, frozen=True):
    """What a confirmed record survives, as the engine is configured now (checked at start, not assumed)."""

    process_crash: bool
    power_loss: bool
    why_not: str = ""
    """Empty when both hold; otherwise the setting that is too weak, and the value it needs."""


class TransportCapabilities(msgspec.Struct, frozen=True):
    """What this adapter declares about its engine. The conformance suite skips only by what stands here."""

    name: str
    survives_restart: bool
    """Records outlive the process that holds the log."""
    several_processes: bool
    """Publishers and readers may live in different processes."""
    retention_by_position: bool
    """`mark` lets the log delete what every provisioned subscription has read."""
    largest_record_bytes: int
    """The largest value; a key of up to 1 KiB comes on top."""
    batch_is_atomic: bool
    """Either all records of one publish become durable, or none."""


class Bounds(msgspec.Struct, frozen=True):
    """What a partition holds: `earliest` is the position before its first record, `latest` that of its last one."""

    earliest: int
    latest: int

    def lag(self, position: int) -> int:
        """How many positions somebody who has read up to `position` is behind: 0 when nothing is left to read, also at
        the beginning of a partition whose positions begin above it."""
        return max(0, self.latest - max(position, self.earliest))


class Reader(Protocol):
    """Reads one partition forward. Not shared between tasks."""

    async def next(self, limit: int) -> Sequence[Record]:
        """Wait until there is a record behind the last one returned; return up to `limit` of them, in log order,
        without a gap. Cancelling it loses nothing: the same records come again.

        Raises:
            PositionGone: retention removed the record that would come next, or the position lies beyond the end: the
                log was lost or put back, and waiting would skip what gets these positions next.
            Misconfigured: the topic was never provisioned, or has no such partition.
            TransportUnavailable: the log is away; a new reader may be opened later.
        """
        ...

    async def aclose(self) -> None:
        """Free what the reader holds. Idempotent."""
        ...


class Transport(Protocol):
    """A log, used as what Kafka, JetStream, RabbitMQ streams, Redis Streams, PostgreSQL and SQLite can all be."""

    @property
    def capabilities(self) -> TransportCapabilities: ...

    async def durability(self) -> Durability:
        """Read the engine's settings back and say what they survive."""
        ...

    async def provision(self, topic: str, partitions: int) -> None:
        """Create a topic with this many partitions; do nothing when it exists with as many.

        Raises:
            Misconfigured: it exists with another count. Changing the count is drain and switch.
        """
        ...

    async def partitions(self, topic: str) -> int | None:
        """How many partitions a topic has; None while it does not exist."""
        ...

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Where a partition begins and ends now."""
        ...

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        """Append records in this order and return how many leading ones are durable when it returns (rule L2).

        No later record of a key becomes durable while an earlier one of these is not confirmed, whatever happens.
        A confirmation may be lost: then the caller publishes the same records again, and the log holds repeats; the
        order of first occurrences never changes. Any return below `len(records)`, like an error, means: the rest must
        be published again, in order, before anything later of the same keys.

        Raises:
            RecordRefused: a record will never be accepted; those before its index are durable.
            Misconfigured: the topic was never provisioned, or has no such partition.
            TransportUnavailable: nothing is known about any of the records.
        """
        ...

    def read(self, topic: str, partition: int, after: int) -> Reader:
        """A reader that starts behind position `after`."""
        ...

    async def mark(self, subscription: str, topic: str, partition: int, position: int) -> None:
        """Tell how far a provisioned subscription has come: a hint for retention and for the engine's lag tools.

        Never the source of truth. Retention never passes the smallest mark where the adapter controls it (rule L4). The
        log knows a subscription from its first mark on, so mark its start position when it is provisioned; a partition
        that it never marked is held whole. With no mark at all a topic keeps everything.
        """
        ...

    async def unmark(self, subscription: str, topic: str) -> None:
        """Forget a subscription that is gone for good, so that it no longer holds retention."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
