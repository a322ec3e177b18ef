"""Intakes: messages of a foreign queue become events of a topic, acknowledged after they are accepted.

    one tx { an outbox row for each message } → COMMIT → acknowledge

A crash in between brings the messages again. A message with an identity then gets the same id again and every inbox drops
the copy; one without an identity is taken for a new one, which is all that anybody could know.

No user code runs here, so nothing can get stuck: what does not fit the event goes to the log as it came, and becomes a
dead letter of whoever subscribes (rule C7), with its bytes, to be edited and redriven.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from contextlib import suppress

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
_AWAY = Retry(first="200ms", cap="10s")


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
                        await self._round(source)
                        failures = 0
            except (TransportUnavailable, StoreUnavailable, Misconfigured) as error:
                # A queue that does not exist yet may be made by its owner at any time: not worth stopping the service.
                failures += 1
                delay = _AWAY.delay(failures, self._entropy.random())
                self._instrumentation.log(
                    "warning", "intake_waits", intake=self._name, error=str(error), delay_s=round(delay, 3)
                )
                await self._pause.wait(delay)

    def stop(self) -> None:
        """Take nothing new; what is in hand is accepted and acknowledged first."""
        self._stopping = True
        self._pause.set()
        if self._reading is not None:
            self._reading()

    async def _round(self, source: IntakeSource) -> None:
        messages = await self._next(source)
        if messages:
            await accept(self._store, messages, self._event, self._source_name, self._ids, self._clock.now_us())
            await source.acknowledge()
            self._instrumentation.count("millstream_intake_accepted_total", self._labels, len(messages))

    async def _next(self, source: IntakeSource) -> Sequence[ForeignMessage]:
        """The next messages; none once stopped."""
        found: Sequence[ForeignMessage] = ()
        away: Exception | None = None

        async def read() -> None:
            nonlocal found, away
            try:
                found = await source.next(BATCH)
            except (TransportUnavailable, Misconfigured) as error:
                away = error

        # A task of its own, so that a stop ends the wait for a message and nothing else.
        async with asyncio.TaskGroup() as group:
            self._reading = group.create_task(read()).cancel
        self._reading = None
        if away is not None:
            raise away
        return found


async def accept(
    store: Store, messages: Sequence[ForeignMessage], event: EventType, source: str, ids: Ids, now_us: int
) -> None:
    """Write the outbox rows of these messages in one transaction; returns once they are durable."""
    rows = [record_of(message, event, source, ids, now_us) for message in messages]

    async def work(session: Session) -> None:
        await write_rows(session, rows)

    await store.transact(work)


def record_of(
    message: ForeignMessage, event: EventType, source: str, ids: Ids, now_us: int
) -> tuple[str, str | None, bytes]:
    """(topic, key, value) of the record that a foreign message becomes.

    A CloudEvents message keeps its own envelope, any other gets one of `event`'s type. Its key is that of the decoded
    event, else the subject, else what the queue calls its key.
    """
    if message.attributes.get("specversion"):
        value = structured(message.attributes, message.body, message.content_type)
    elif message.content_type is not None and is_structured(message.content_type):
        value = message.body
    else:
        return _wrapped(message, event, source, ids, now_us)
    try:
        subject = decode_message(value).subject
    except Undecodable:
        subject = None
    return event.topic, message.key if subject is None else subject, value


def _wrapped(
    message: ForeignMessage, event: EventType, source: str, ids: Ids, now_us: int
) -> tuple[str, str | None, bytes]:
    key = message.key
    data, encoded = msgspec.Raw(b"null"), None
    with suppress(Undecodable):  # a dead letter of its subscribers, under the key that the queue gives
        key = event.key_of(event.read(event.version, message.body))
    try:
        msgspec.json.decode(message.body)
        data = msgspec.Raw(message.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        encoded = base64.b64encode(message.body).decode()
    identity = message.identity
    envelope = Message(
        id=ids.new() if identity is None else derive_id(source, 0, identity, 0),
        source=source,
        type=event.name,
        time=format_time(now_us),
        data=data,
        subject=key,
        datacontenttype="application/json" if encoded is None else message.content_type,
        data_base64=encoded,
        dataversion=event.version,
    )
    return event.topic, key, encode_message(envelope)
