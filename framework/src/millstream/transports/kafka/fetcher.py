"""One consumer that fetches for many readers, and the thread that serves it.

A consumer of its own costs a reader five threads and two connections, and a process has dozens of readers. So they share
consumers: one serves any number of partitions, but each for one reader only, because it has one place in each.

What is fetched ahead is bounded for every reader. Where a bound is reached the partition is taken out of the consumer, and
assigned again at its next offset when half of it was read. (Pausing it would keep the place inside the client; here it is known
on this side, and a record that comes twice is dropped.)
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from .connection import Connection

__all__ = ["Feed", "Fetcher", "Place"]

Place = tuple[str, int]

POLL_SECONDS = 0.01
"""A new reader waits for so long, since a thread that waits for records cannot be called."""
AHEAD_RECORDS = 4_000
AHEAD_BYTES = 2 * 1024 * 1024
"""What is fetched ahead for one reader at most, and not counting the last step, which may be one step of the consumer."""
QUEUE_KILOBYTES = 4 * 1024
"""What a consumer holds for all its readers beside that."""
STEP_RECORDS = 500

_ALL_DOWN = KafkaError._ALL_BROKERS_DOWN


class Target(Protocol):
    """Who gets what a feed brings. Called on the event loop."""

    def receive(self, messages: Sequence[Message]) -> None: ...

    def fail(self, error: KafkaError | str) -> None: ...


@final
class Feed:
    """One reader's share of a fetcher. What the thread writes and what the loop writes are different fields."""

    def __init__(self, place: Place, offset: int, target: Target) -> None:
        self.place = place
        self.target = target
        self.offset = offset
        """Of the next record to come."""
        self.assigned = False
        self.came_records = self.came_bytes = 0
        self.went_records = self.went_bytes = 0
        self.asked = False
        """The loop's note that the thread is told of the space."""
        self.closed = False
        """What the thread had sent on its way before it heard of the end is for nobody."""

    def too_much(self, part: float = 1.0) -> bool:
        """Whether more is held than this part of the bounds."""
        records, size = self.came_records - self.went_records, self.came_bytes - self.went_bytes
        return records >= AHEAD_RECORDS * part or size >= AHEAD_BYTES * part


@final
class Fetcher:
    """Serves readers until `aclose`. `places` are those that it serves now.

    fetch_wait_ms: how long a broker holds a fetch when there is nothing new. down: called on the event loop when no broker can be reached.
    """

    def __init__(self, connection: Connection, fetch_wait_ms: int, down: Callable[[Fetcher, str], None]) -> None:
        self.places: dict[Place, Feed] = {}
        self._loop = asyncio.get_running_loop()
        self._down = down
        self._consumer = Consumer(
            connection.settings(
                **{
                    "group.id": "millstream",  # the client insists; nothing is committed in its name
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "error",  # a position that is gone is an error, never a leap
                    "isolation.level": "read_committed",  # foreign producers may use transactions
                    "fetch.wait.max.ms": fetch_wait_ms,
                    "fetch.error.backoff.ms": 100,
                    "fetch.queue.backoff.ms": 5,
                    "fetch.max.bytes": QUEUE_KILOBYTES * 1024,
                    "queued.max.messages.kbytes": QUEUE_KILOBYTES,
                    "queued.min.messages": AHEAD_RECORDS,
                    "error_cb": self._note,
                }
            )
        )
        self._orders: deque[Callable[[Consumer], None]] = deque()
        self._served: dict[Place, Feed] = {}  # the thread's
        self._wanted = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="millstream-kafka-fetcher", daemon=True)
        self._thread.start()

    # -- on the event loop --------------------------------------------------------------------------------------

    def open(self, place: Place, offset: int, target: Target) -> Feed:
        """Begin to fetch a partition that it does not serve yet."""
        feed = self.places[place] = Feed(place, offset, target)
        self._order(partial(self._assign, feed))
        return feed

    def close(self, feed: Feed) -> None:
        """Fetch no more for it. Idempotent."""
        if not feed.closed:
            feed.closed = True
            del self.places[feed.place]
            self._order(partial(self._unassign, feed, forget=True))

    def took(self, feed: Feed, messages: Sequence[Message]) -> None:
        """The reader handed these on: there is space for as many."""
        feed.went_records += len(messages)
        feed.went_bytes += sum(map(len, messages))
        if not feed.assigned and not feed.asked and not feed.too_much(0.5):
            feed.asked = True
            self._order(partial(self._assign, feed))

    async def aclose(self, seconds: float) -> None:
        """End, and wait for the thread for at most so long."""
        self._closing = True
        self._wanted.set()
        await asyncio.to_thread(self._thread.join, seconds)

    def _order(self, order: Callable[[Consumer], None]) -> None:
        self._orders.append(order)
        self._wanted.set()

    # -- on the thread ------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        consumer = self._consumer
        try:
            while not self._closing:
                while self._orders:
                    self._orders.popleft()(consumer)
                try:
                    message = consumer.poll(POLL_SECONDS if self._served else 0)
                    if message is not None:
                        self._hand_on(consumer, [message, *consumer.consume(STEP_RECORDS, 0)])
                        continue
                except KafkaException as error:  # of the consumer, and not of one partition
                    self._call(self._down, self, error.args[0].str())
                if not self._served and not self._orders:
                    self._wanted.wait(1.0)
                    self._wanted.clear()
        finally:
            consumer.close()

    def _assign(self, feed: Feed, consumer: Consumer) -> None:
        self._served[feed.place] = feed
        feed.assigned = True
        feed.asked = False
        try:
            consumer.incremental_assign([TopicPartition(*feed.place, feed.offset)])
        except KafkaException as error:
            self._failed(feed, error.args[0], consumer)

    def _unassign(self, feed: Feed, consumer: Consumer, *, forget: bool = False) -> None:
        if feed.assigned:
            feed.assigned = False
            with suppress(KafkaException):
                consumer.incremental_unassign([TopicPartition(*feed.place)])
        if forget and self._served.get(feed.place) is feed:
            del self._served[feed.place]

    def _hand_on(self, consumer: Consumer, messages: list[Message]) -> None:
        by_feed: dict[Feed, list[Message]] = {}
        for message in messages:
            feed = self._served.get((message.topic() or "", message.partition() or 0))
            if feed is None or not feed.assigned:
                continue
            error = message.error()
            if error is not None:
                self._failed(feed, error, consumer)
                continue
            offset = message.offset() or 0
            if offset >= feed.offset:
                feed.offset = offset + 1
                by_feed.setdefault(feed, []).append(message)
        for feed, some in by_feed.items():
            feed.came_records += len(some)
            feed.came_bytes += sum(map(len, some))
            if feed.too_much() and feed.assigned:
                self._unassign(feed, consumer)
        if by_feed:
            self._call(_receive, by_feed)

    def _failed(self, feed: Feed, error: KafkaError, consumer: Consumer) -> None:
        self._unassign(feed, consumer)
        self._call(_fail, feed, error)

    def _note(self, error: KafkaError) -> None:
        if error.code() == _ALL_DOWN:
            self._call(self._down, self, error.str())

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)


def _receive(by_feed: dict[Feed, list[Message]]) -> None:
    for feed, messages in by_feed.items():
        if not feed.closed:
            feed.target.receive(messages)


def _fail(feed: Feed, error: KafkaError) -> None:
    if not feed.closed:
        feed.target.fail(error)
