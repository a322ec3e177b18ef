"""Intakes: messages of a foreign queue become events of a topic, acknowledged after they are accepted.

    one tx { an outbox row for each message } → COMMIT → acknowledge

A crash in between brings the messages again. A message with an identity then gets the same id again and every inbox drops
the copy; one without an identity is taken for a new one, which is all that anybody could know.

While the store is away what was read is kept in hand, and the queue is not told: giving it back would count as a failed
delivery on every engine, and some of them drop a message after a few of those. While the log is away the outbox fills up to
a bound, and what is beyond it stays where it is.

No message can stop those behind it: what does not fit the event goes to the log as it came, and becomes a dead letter of
whoever subscribes (rule C7), with its bytes, to be edited and redriven.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence

import msgspec

from ..binary_mode import is_structured, structured
from ..clock import Clock
from ..errors import Misconfigured, StoreUnavailable, TransportUnavailable, Undecodable
from ..ids import Entropy, Ids, derive_id
from ..message import EventType, Message, decode_message, encode_message, format_time
from ..ports.instrumentation import Instrumentation
from ..ports.intake import ForeignMessage, IntakeSource
from ..ports.store import Session, Store
from ..ports.wake import Wake
from ..resilience.backoff import Retry
from .outbox import write_rows

__all__ = ["Intake", "accept", "record_of"]

BATCH = 200
"""Messages of one transaction. Few, because a message of somebody else may be large."""
OUTBOX_ROWS = 50_000
"""Rows of the outbox beyond which nothing more is taken in: the foreign queue is the better place to wait. Counted every
`LOOK_EVERY` messages, so it may be exceeded by as many."""
LOOK_EVERY = 5_000
_AWAY = Retry(first="200ms", cap="10s")

_COUNT = "SELECT COUNT(*) FROM (SELECT 1 FROM millstream_outbox LIMIT ?) AS some_of_them"
_Row = tuple[str, str | None, bytes]
"""Topic, key and value of an outbox row."""


class Intake:
    """Runs one intake of a service. Several processes may run the same one: the queue divides its messages.

    open: makes a source, once at the start and again whenever the queue was away.
    """

    def __init__(
        self,
        name: str,
        service: str,
        event: EventType,
        open: Callable[[], IntakeSource],  # noqa: A002 - what it does
        store: Store,
        *,
        clock: Clock,
        ids: Ids,
        entropy: Entropy,
        instrumentation: Instrumentation,
    ) -> None:
        self._name = name
        self._source_name = f"/{service}/intake/{name}"
        self._event = event
        self._open = open
        self._store = store
        self._clock = clock
        self._ids = ids
        self._entropy = entropy
        self._instrumentation = instrumentation
        self._labels = (("service", service), ("intake", name))
        self._service = service
        self._since_look = LOOK_EVERY
        self._pause = Wake(clock)
        self._stopping = False
        self._reading: Callable[[], object] | None = None

    async def run(self) -> None:
        """Take in until stopped. While the queue or the store is away it tries again, with growing pauses."""
        failures = 0
        while not self._stopping:
            try:
                async with self._open() as source:
                    while not self._stopping:
                        await self._room()
                        await self._round(source)
                        failures = 0
            except (TransportUnavailable, Misconfigured) as error:
                # A queue that does not exist yet may be made by its owner at any time: not worth stopping the service.
                failures += 1
                await self._wait(failures, str(error))

    def stop(self) -> None:
        """Take nothing new; what is in hand is accepted and acknowledged first, if the store is there."""
        self._stopping = True
        self._pause.set()
        if self._reading is not None:
            self._reading()

    async def _room(self) -> None:
        """Wait until the outbox has some, or until stopped."""
        failures = 0
        while self._since_look >= LOOK_EVERY and not self._stopping:
            try:
                ((rows,),) = await self._store.query(_COUNT, OUTBOX_ROWS)
            except StoreUnavailable as error:
                why = str(error)
            else:
                if rows < OUTBOX_ROWS:
                    self._since_look = 0
                    return
                why = f"the outbox has {rows} rows or more: the log is away, or keys are held (`millstream outbox`)"
            failures += 1
            await self._wait(failures, why)

    async def _round(self, source: IntakeSource) -> None:
        messages = await self._next(source)
        if not messages:
            return
        # Once for all tries: where nobody knows whether a commit counted, the next one repeats these ids.
        now_us = self._clock.now_us()
        rows = [record_of(message, self._event, self._source_name, self._ids, now_us) for message in messages]
        if await self._write(rows):
            self._since_look += len(rows)
            self._instrumentation.count("millstream_intake_accepted_total", self._labels, len(rows))
            await source.acknowledge()

    async def _write(self, rows: list[_Row]) -> bool:
        """Make them durable, however long the store is away; False when stopped meanwhile."""
        failures = 0
        while True:
            try:
                await _write(self._store, rows)
            except StoreUnavailable as error:
                if self._stopping:
                    return False
                failures += 1
                await self._wait(failures, str(error))
            else:
                return True

    async def _wait(self, failures: int, why: str) -> None:
        delay = _AWAY.delay(failures, self._entropy.random())
        self._instrumentation.log(
            "warning", "intake_waits", service=self._service, intake=self._name, error=why, delay_s=round(delay, 3)
        )
        await self._pause.wait(delay)

    async def _next(self, source: IntakeSource) -> Sequence[ForeignMessage]:
        """The next messages; none once stopped."""
        found: Sequence[ForeignMessage] = ()
        failed: Exception | None = None

        async def read() -> None:
            nonlocal found, failed
            try:
                found = await source.next(BATCH)
            except Exception as error:  # noqa: BLE001 - raised below as it is, and not inside a group
                failed = error

        # A task of its own, so that a stop ends the wait for a message and nothing else.
        async with asyncio.TaskGroup() as group:
            self._reading = group.create_task(read()).cancel
        self._reading = None
        if failed is not None:
            raise failed
        return found


async def accept(
    store: Store, messages: Sequence[ForeignMessage], event: EventType, source: str, ids: Ids, now_us: int
) -> None:
    """Write the outbox rows of these messages in one transaction; returns once they are durable."""
    await _write(store, [record_of(message, event, source, ids, now_us) for message in messages])


async def _write(store: Store, rows: list[_Row]) -> None:
    async def work(session: Session) -> None:
        await write_rows(session, rows)

    await store.transact(work)


def record_of(message: ForeignMessage, event: EventType, source: str, ids: Ids, now_us: int) -> _Row:
    """(topic, key, value) of the record that a foreign message becomes. There is one for every message.

    A CloudEvents message keeps its own envelope, any other gets one of `event`'s type. Its key is that of the decoded
    event, else the subject, else what the queue calls its key.
    """
    queue_key = None if message.key is None else _storable(_sound(message.key))
    if message.content_type is not None and is_structured(message.content_type):
        value = message.body
    elif message.attributes.get("specversion"):
        value = structured(message.attributes, message.body, message.content_type)
    else:
        key, value = _wrapped(message, queue_key, event, source, ids, now_us)
        return event.topic, key, value
    try:
        subject = decode_message(value).subject
    except Undecodable:
        subject = None
    return event.topic, queue_key if subject is None else _storable(subject), value


def _wrapped(
    message: ForeignMessage, queue_key: str | None, event: EventType, source: str, ids: Ids, now_us: int
) -> tuple[str | None, bytes]:
    try:
        key = event.key_of(event.read(event.version, message.body))
    except Undecodable:  # a dead letter of its subscribers, under the key that the queue gives
        key = queue_key
    data, encoded = msgspec.Raw(message.body), None
    try:
        msgspec.json.decode(message.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data, encoded = msgspec.Raw(b"null"), base64.b64encode(message.body).decode()
    identity = message.identity
    envelope = Message(
        id=ids.new() if identity is None else derive_id(source, 0, _sound(identity), 0),
        source=source,
        type=event.name,
        time=format_time(now_us),
        data=data,
        subject=key,
        datacontenttype="application/json" if encoded is None else _sound(message.content_type or "") or None,
        data_base64=encoded,
        dataversion=event.version,
    )
    return None if key is None else _storable(key), encode_message(envelope)


def _sound(text: str) -> str:
    """Without halves of surrogate pairs, which no encoder takes; headers of foreign engines may hold any bytes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _storable(key: str) -> str:
    """The key as the outbox row's own. Not every store keeps a NUL as text; the message itself still has it, and becomes a
    dead letter."""
    return key.replace("\0", "\ufffd")
