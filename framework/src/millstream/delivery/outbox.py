"""Events on their way out: built, buffered, and written as rows in the transaction that caused them.

Row order equals commit order for a key because the slots of all keys are locked, ascending, after the last business
statement and before the first row (rule T4). The slots are `crc32(topic, key) mod 128`, the same for every writer.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import msgspec

from ..caller import Caller
from ..errors import Misconfigured, RecordRefused, Undecodable
from ..ids import Ids, derive_id
from ..message import DATA_LIMIT_BYTES, EventType, Message, encode_message, format_time
from ..message import event_type as declared_type
from ..ports.store import Session

__all__ = ["OUTBOX_CHANNEL", "Origin", "Outbox"]

OUTBOX_CHANNEL = "millstream_outbox"
TIMER_CHANNEL = "millstream_timers"
SLOTS = 128

_COLUMNS = ("slot", "topic", "key", "value")
_INSERT_TIMER = "INSERT INTO millstream_timers (due, topic, key, value) VALUES (?, ?, ?, ?)"


class Origin:
    """Who publishes: names the source and numbers the events that one cause gives rise to."""

    __slots__ = ("generation", "ids", "largest", "source", "subscription")

    def __init__(
        self,
        source: str,
        ids: Ids,
        subscription: str | None = None,
        generation: int = 0,
        largest: int = DATA_LIMIT_BYTES,
    ) -> None:
        self.source = source
        self.ids = ids
        self.subscription = subscription
        self.generation = generation
        self.largest = largest


class Outbox:
    """The buffer of one transaction. `mark` and `cut` undo what a failed message added."""

    __slots__ = ("_cause_id", "_ordinal", "_origin", "_rows", "_timers")

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._rows: list[tuple[str, str | None, bytes]] = []
        self._timers: list[tuple[int, str, str | None, bytes]] = []
        self._cause_id = ""
        self._ordinal = 0

    def add(self, event: object, cause: Message | Caller | None, now_us: int, due: int | None = None) -> str:
        """Encode an event and buffer it; return its message id. `due` makes it a timer row (rule R4)."""
        declared: EventType = getattr(type(event), "__millstream_event__", None) or declared_type(type(event))
        try:
            data = declared.encode(event)
        except Exception as error:  # any encoder's complaint: the event is what is wrong
            raise Undecodable(f"event {declared.name}", f"it cannot be encoded: {error}") from error
        message = self._message(declared, event, data, cause, now_us)
        value = encode_message(message)
        if len(value) > self._origin.largest:
            raise RecordRefused(
                len(self._rows),
                f"event {declared.name} (key {message.subject!r}) takes {len(value)} bytes, the log carries "
                f"{self._origin.largest}. Publish a reference to the data instead",
            )
        if due is None:
            self._rows.append((declared.topic, message.subject, value))
        else:
            self._timers.append((due, declared.topic, message.subject, value))
        return message.id

    def _message(
        self, declared: EventType, event: object, data: bytes, cause: Message | Caller | None, now_us: int
    ) -> Message:
        origin = self._origin
        id_, correlation, causation, traceparent, tenant, deadline = "", None, None, None, None, None
        if isinstance(cause, Message):
            if cause.id != self._cause_id:
                self._cause_id, self._ordinal = cause.id, 0
            self._ordinal += 1
            if origin.subscription is None:
                raise Misconfigured("a message can only be the cause inside a subscription")
            id_ = derive_id(f"{origin.source}/{origin.subscription}", origin.generation, cause.id, self._ordinal)
            causation, correlation = cause.id, cause.correlationid or cause.id
            traceparent, tenant, deadline = cause.traceparent, cause.tenant, cause.deadline
        else:
            id_ = origin.ids.new()
            if cause is not None:
                correlation, traceparent, tenant = cause.correlation_id, cause.traceparent, cause.tenant
                deadline = None if cause.deadline_us is None else format_time(cause.deadline_us)
        return Message(
            id=id_,
            source=origin.source,
            type=declared.name,
            time=format_time(now_us),
            data=msgspec.Raw(data),
            subject=declared.key_of(event),
            datacontenttype="application/json",
            dataversion=declared.version,
            traceparent=traceparent,
            correlationid=correlation,
            causationid=causation,
            deadline=deadline,
            tenant=tenant,
        )

    def mark(self) -> tuple[int, int]:
        """Where the buffer stands."""
        return len(self._rows), len(self._timers)

    def cut(self, mark: tuple[int, int]) -> None:
        """Forget what came after a mark."""
        del self._rows[mark[0] :]
        del self._timers[mark[1] :]
        self._cause_id = ""

    @property
    def empty(self) -> bool:
        return not self._rows and not self._timers

    async def flush(self, session: Session) -> None:
        """Write the rows; the last thing before the commit."""
        if self._rows:
            await write_rows(session, self._rows)
            self._rows = []
        if self._timers:
            await session.execute_many(_INSERT_TIMER, self._timers)
            session.notify(TIMER_CHANNEL)
            self._timers = []


async def write_rows(session: Session, rows: list[tuple[str, str | None, bytes]]) -> None:
    """Insert (topic, key, value) rows under the locks of their slots, and wake the relay."""
    placed = [(slot_of(topic, key), topic, key, value) for topic, key, value in rows]
    slots = [placed[0][0]] if len(placed) == 1 else sorted({row[0] for row in placed if row[2] is not None})
    await session.lock_slots(slots)
    session.append("millstream_outbox", _COLUMNS, placed)
    session.notify(OUTBOX_CHANNEL)


def slot_of(topic: str, key: str | None) -> int:
    """The lock slot of a key; rows without a key are ordered with no other and stand under slot 0."""
    if key is None:
        return 0
    return zlib.crc32(key.encode("utf-8", "surrogatepass"), _start(topic)) % SLOTS


@lru_cache(maxsize=1024)
def _start(topic: str) -> int:
    return zlib.crc32(topic.encode())
