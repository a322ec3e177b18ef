"""Events of a caller's transaction as rows of the outbox table: built by the kernel's own code, so that an event looks
the same whoever publishes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

import msgspec

from ..caller import Caller
from ..clock import Clock, SystemClock
from ..delivery.driving import drive
from ..delivery.outbox import Origin
from ..delivery.outbox import Outbox as KernelOutbox
from ..ids import Ids
from ..message import DATA_LIMIT_BYTES, Message, parse_time

__all__ = ["Encoder", "OutboxRow", "slots_of"]


class OutboxRow(msgspec.Struct, frozen=True, gc=False):
    """One row as it is inserted, and the message id in it."""

    message_id: str
    slot: int
    topic: str
    key: str | None
    value: bytes


def slots_of(rows: Iterable[OutboxRow]) -> list[int]:
    """The publish slots that a transaction must hold before it inserts these rows, in the order of locking (rule T4)."""
    return sorted({row.slot for row in rows if row.key is not None})


@final
class Encoder:
    """Turns events of one service into rows.

    largest_bytes: what the log carries; a larger event is refused when it is published, not when it is relayed.
    """

    def __init__(self, service: str, largest_bytes: int = DATA_LIMIT_BYTES, clock: Clock | None = None) -> None:
        self._origin = Origin(f"/{service}", Ids(), largest=largest_bytes)
        self._clock = clock or SystemClock()

    def row(self, event: object, cause: Message | Caller | None) -> OutboxRow:
        """Encode an event.

        Raises:
            Undecodable: it cannot be encoded. RecordRefused: it is larger than the log carries. Both name it.
            Misconfigured: it is no declared event.
        """
        one = KernelOutbox(self._origin)
        message_id = one.add(event, _caller_of(cause), self._clock.now_us())
        caught = _Caught()
        drive(one.flush(caught))  # pyright: ignore[reportArgumentType] - the part of a session that a flush uses
        (slot, topic, key, value) = caught.row
        return OutboxRow(message_id, slot, topic, key, value)


class _Caught:
    """Stands in for the session that the kernel writes its rows to."""

    row: tuple[Any, ...] = ()

    async def lock_slots(self, slots: Sequence[int]) -> None: ...

    def append(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        (self.row,) = rows

    def notify(self, channel: str) -> None: ...


def _caller_of(cause: Message | Caller | None) -> Caller | None:
    """What goes on from a message into the events that it gives rise to. Their ids are fresh: an attempt that is rolled
    back took its events with it, so none of them was ever seen."""
    if not isinstance(cause, Message):
        return cause
    return Caller(
        subject="",
        tenant=cause.tenant,
        deadline_us=None if cause.deadline is None else parse_time(cause.deadline),
        traceparent=cause.traceparent,
        correlation_id=cause.correlationid or cause.id,
    )
