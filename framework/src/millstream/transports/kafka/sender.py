"""One idempotent producer, and the thread that serves its delivery reports.

It keeps rule L2 by giving up as a whole: after the first report that is an error, nothing of what waits behind it may still be
sent, because librdkafka would go on with the next record. So it is condemned: purged, never used again, and its owner opens
another one. What it had put on the wire may become durable later; the broker numbers what a producer sends and takes no record
without the one before it, so that is a prefix, and publishing all of it again only repeats.

That numbering has a hole. A broker that has never heard of a producer accepts any number from it: when a partition changes its
leader while a producer's first requests are under way, the first may be refused and the second one taken. So the first record
to a partition goes alone, and so does one after a long silence, because brokers forget (`producer.id.expiration.ms`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, final

from confluent_kafka import KafkaError, KafkaException, Producer

from ...message import Record
from .connection import Connection
from .wire import HEADERS, OVERHEAD_BYTES, encoded_key

__all__ = ["Sender", "Sent"]

POLL_SECONDS = 0.1
"""How long the thread waits for reports before it looks whether it is to end."""
FORGET_SECONDS = 3600.0
"""A partition that was silent for so long gets its next record alone. Brokers forget a silent producer after a day."""
PURGE_SECONDS = 0.5
"""How long the reports of what was taken back may take."""
BUFFER_KILOBYTES = 64 * 1024
FULL_SECONDS = 0.005
BATCH_BYTES = 512 * 1024
"""How much one request carries. Below what the smallest allowed topic takes, which judges whole batches."""

_PURGED = frozenset(
    {
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
    }
)


_SILENT = logging.Logger("kafka", logging.CRITICAL + 1)  # noqa: LOG001 - belongs to no hierarchy: nobody hears it
"""What librdkafka would print. It is raised, with its reason, where somebody waits."""


class Sent(NamedTuple):
    """How many leading records were confirmed, and what went wrong with the next one."""

    confirmed: int
    error: KafkaError | None


@final
class Sender:
    """May be used until it is `condemned`. Not for several event loops."""

    def __init__(self, connection: Connection, largest_record_bytes: int) -> None:
        self.condemned = ""
        """Why nothing can be sent any more; empty while it can."""
        self._loop = asyncio.get_running_loop()
        self._producer: Producer | None = Producer(
            connection.settings(
                **{
                    "acks": "all",
                    "enable.idempotence": True,
                    "enable.gapless.guarantee": True,  # an error that is final for one record is final for the producer
                    "max.in.flight.requests.per.connection": 5,
                    "message.timeout.ms": 0,  # endless: whoever publishes has a time limit, and then all of it ends
                    "linger.ms": 0,  # a publish is a batch already
                    "batch.size": min(BATCH_BYTES, largest_record_bytes),
                    "message.max.bytes": largest_record_bytes + OVERHEAD_BYTES,
                    "queue.buffering.max.kbytes": BUFFER_KILOBYTES + largest_record_bytes // 1024,
                    "error_cb": self._note,
                    # A purge is a fatal error to the gapless guarantee, and that is logged at any level.
                    "logger": _SILENT,
                }
            )
        )
        self._why = ""
        self._lock = threading.Lock()
        """Held while records are handed over and while all are purged: none may come in behind a purge."""
        self._pending: set[_Reports] = set()
        self._heard: dict[tuple[str, int], float] = {}
        self._first: dict[tuple[str, int], asyncio.Lock] = {}
        self._thread = threading.Thread(target=self._serve, name="millstream-kafka-sender", daemon=True)
        self._thread.start()

    async def send(self, topic: str, partition: int, records: Sequence[Record], until: float) -> Sent:
        """Send in this order and wait for the reports, until a moment of the loop's clock. Then, as after any error, it
        is condemned. Cancelling leaves the records on their way: they keep their place before whatever follows."""
        place = (topic, partition)
        if self._loop.time() - self._heard.get(place, -FORGET_SECONDS) < FORGET_SECONDS:
            return await self._send(place, records, until)
        async with self._first.setdefault(place, asyncio.Lock()):
            first = await self._send(place, records[:1], until)
        if first.error is not None or len(records) == 1:
            return first
        rest = await self._send(place, records[1:], until)
        return Sent(rest.confirmed + 1, rest.error)

    async def _send(self, place: tuple[str, int], records: Sequence[Record], until: float) -> Sent:
        confirmed = 0
        while confirmed < len(records):
            if self.condemned:
                return Sent(confirmed, KafkaError(KafkaError._PURGE_QUEUE, self.condemned))
            reports = self._hand_over(place, records[confirmed:])
            if reports is None:  # others fill the buffer
                await asyncio.sleep(FULL_SECONDS)
                if self._loop.time() >= until:
                    self.condemn("the buffer stayed full")
                continue
            await asyncio.wait([reports.done], timeout=until - self._loop.time())
            if not reports.done.done():
                await self._give_up(reports)
            confirmed += reports.confirmed
            if reports.error is not None:
                return Sent(confirmed, self._reason(reports.error))
            self._heard[place] = self._loop.time()
        return Sent(confirmed, None)

    async def _give_up(self, reports: _Reports) -> None:
        """The time is over: take back what was handed over."""
        with self._lock:
            if not self._heard and self._producer is not None:
                # It is still looking for the brokers, and a new one would begin from the start: where that takes longer than
                # a call, none would ever get through. What no broker was asked to take it may forget without harm.
                self._producer.purge(in_flight=False, blocking=False)
        if not self._heard:
            await asyncio.wait([reports.done], timeout=PURGE_SECONDS)
        if not reports.done.done():
            self.condemn(self._late())
            await reports.done

    def _reason(self, error: KafkaError) -> KafkaError:
        """That something was purged does not say why."""
        return KafkaError(error.code(), self.condemned or self._late()) if error.code() in _PURGED else error

    def _late(self) -> str:
        return f"no confirmation in time{self._why and f'; last error: {self._why}'}"

    def _hand_over(self, place: tuple[str, int], records: Sequence[Record]) -> _Reports | None:
        """Give librdkafka as many as it takes now; None when that is none."""
        topic, partition = place
        reports = _Reports(self)
        handed = 0
        with self._lock:
            producer = self._producer
            if producer is None or self.condemned:
                return reports.failed(KafkaError(KafkaError._PURGE_QUEUE, self.condemned))
            try:
                for record in records:
                    producer.produce(
                        topic,
                        record.value,
                        encoded_key(record.key),
                        partition,
                        on_delivery=partial(reports.report, handed),
                        headers=HEADERS,
                    )
                    handed += 1
            except BufferError:
                if not handed:
                    return None
            except KafkaException as error:
                if not handed:
                    return reports.failed(error.args[0])
                # The rest of them will meet the same error once these are confirmed.
            self._pending.add(reports)
        reports.done.add_done_callback(lambda _: self._pending.discard(reports))
        reports.expect(handed)
        return reports

    def condemn(self, why: str) -> None:
        """Nothing is sent any more; whoever waits is told what was confirmed. From any thread; idempotent."""
        with self._lock:
            if self.condemned:
                return
            self.condemned = why
            if self._producer is not None:
                self._producer.purge(blocking=False)

    @property
    def alive(self) -> bool:
        """Whether its thread still has something to end."""
        return self._thread.is_alive()

    async def aclose(self, seconds: float) -> None:
        """Condemn, and wait for the thread for at most so long."""
        self.condemn("closed")
        await asyncio.to_thread(self._thread.join, seconds)

    def call(self, done: asyncio.Future[None]) -> None:
        """Complete a future of the loop, from the thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_complete, done)

    def future(self) -> asyncio.Future[None]:
        return self._loop.create_future()

    def _serve(self) -> None:
        producer = self._producer
        assert producer is not None
        while not self.condemned or (len(producer) and self._pending):
            try:
                if self.condemned:
                    producer.purge(blocking=False)  # again: what was on its way back to the queue during the first one
                producer.poll(POLL_SECONDS)
            except KafkaException as error:  # a fatal error is raised here too, beside its report
                self.condemn(error.args[0].str())
        with self._lock:
            self._producer = None
        del producer  # the last reference: its threads and connections end here, and not on the event loop
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._abandon)

    def _abandon(self) -> None:
        """Nobody is left who could report."""
        for reports in list(self._pending):
            if not reports.done.done():  # one that is complete leaves the set a moment later, and has a better reason
                reports.failed(KafkaError(KafkaError._FATAL, self.condemned))

    def _note(self, error: KafkaError) -> None:
        self._why = error.str()
        if error.fatal():
            self.condemn(self._why)


class _Reports:
    """The reports of records that were handed over together. `report` runs on the thread, the rest on the loop."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._reported = 0
        self._expected = -1
        self._failed_at = -1
        self.error: KafkaError | None = None
        self.done = sender.future()

    @property
    def confirmed(self) -> int:
        """The records before the first that was not confirmed."""
        return self._reported if self._failed_at < 0 else self._failed_at

    def report(self, index: int, error: KafkaError | None, _: object) -> None:
        if error is not None:
            # Reports of a purge come in another order than the records. Its errors only say that it was one.
            if self._failed_at < 0 or index < self._failed_at:
                self._failed_at, self.error = index, error
            if error.code() not in _PURGED:
                self._sender.condemn(error.str())
        self._reported += 1
        if self._reported == self._expected:
            self._sender.call(self.done)

    def expect(self, count: int) -> None:
        """All that will come. The last report may have come before: then this completes it."""
        self._expected = count
        if self._reported == count:
            _complete(self.done)

    def failed(self, error: KafkaError) -> _Reports:
        self._failed_at, self.error = 0, error
        _complete(self.done)
        return self


def _complete(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
