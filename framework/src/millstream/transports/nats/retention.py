"""What may be deleted: nothing that a subscription has still to read (rule L4).

Marks lie in a key-value bucket, so that every process that uses the log sees all of them: `marks.<stream>.<subscription>.
<partition>` holds a position. Beside them stands `floors.<stream>`: up to where each partition was emptied, written before
the records are deleted, so that no reader can find them missing without also finding out why.

Marks that move forward are written every five seconds; a first mark and one that moves back are written at once, since
they hold what others would let go. Any process may sweep at any time: a sweep repeated changes nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from ...clock import Clock
from ...errors import Misconfigured, TransportUnavailable
from ...message import format_time, parse_time
from ...ports.instrumentation import Instrumentation
from .connection import Connection
from .jetstream import ApiError, Code, JetStream
from .topics import Topic
from .wire import escape

__all__ = ["FLOORS", "Retention", "floors_in"]

BUCKET = "millstream"
STREAM = f"KV_{BUCKET}"
SUBJECTS = f"$KV.{BUCKET}"
FLOORS = f"{SUBJECTS}.floors"
MARKS_EVERY = 5.0
"""Seconds between two writes of the marks."""
RETAIN_EVERY = 15.0
"""Seconds between two sweeps."""
COLLECT_SECONDS = 10.0
CAS_ATTEMPTS = 5

Mark = tuple[str, str, int]
"""Stream, subscription, partition."""


def floors_in(body: bytes) -> dict[int, int]:
    """Partition → position up to which it was emptied.

    Raises:
        Misconfigured: somebody else writes into our bucket.
    """
    try:
        return msgspec.json.decode(body, type=dict[int, int]) if body else {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"the bucket {BUCKET!r} of NATS is not Millstream's alone: {FLOORS} holds {error}"
        ) from error


class Retention:
    """The marks of this process's subscriptions, and the rule.

    keep_seconds: records stay at least this long after they were written.
    """

    def __init__(
        self,
        jetstream: JetStream,
        connect: Callable[[], Awaitable[Connection]],
        clock: Clock,
        instrumentation: Instrumentation,
        keep_seconds: float,
        replicas: int,
    ) -> None:
        self._jetstream = jetstream
        self._connect = connect
        self._clock = clock
        self._instrumentation = instrumentation
        self._keep_seconds = keep_seconds
        self._replicas = replicas
        self._written: dict[Mark, int] = {}
        self._dirty: dict[Mark, int] = {}

    async def provision(self) -> None:
        """Create the bucket, as NATS's own tools would."""
        config: dict[str, Any] = {
            "name": STREAM,
            "description": "Millstream: how far each subscription has read, and what retention deleted",
            "subjects": [f"{SUBJECTS}.>"],
            "storage": "file",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "num_replicas": self._replicas,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "deny_delete": True,
        }
        try:
            await self._jetstream.ask(f"STREAM.CREATE.{STREAM}", config)
        except ApiError as error:
            if error.code != Code.STREAM_EXISTS:  # with other settings: an operator's choice
                raise

    async def mark(self, subscription: str, topic: Topic, partition: int, position: int) -> None:
        """Note how far a subscription has come. It may move back: a replay holds again what it will read."""
        mark = (topic.stream, escape(subscription), partition)
        known = self._dirty.get(mark, self._written.get(mark))
        if known is None or position < known:
            self._dirty.pop(mark, None)
            await self._write(mark, position)
        elif position > known:
            self._dirty[mark] = position

    async def unmark(self, subscription: str, topic: Topic) -> None:
        """Forget a subscription for good."""
        name = escape(subscription)
        for marks in (self._dirty, self._written):
            for mark in [mark for mark in marks if mark[:2] == (topic.stream, name)]:
                del marks[mark]
        await self._purge(STREAM, {"filter": f"{SUBJECTS}.marks.{topic.stream}.{name}.*"})

    async def save(self) -> None:
        """Make the marks durable.

        Raises:
            TransportUnavailable: not now; what was not written is kept for the next time.
        """
        for mark, position in tuple(self._dirty.items()):
            await self._write(mark, position)
            if self._dirty.get(mark) == position:
                del self._dirty[mark]

    async def floors(self, topic: Topic) -> dict[int, int]:
        """Up to where each partition was emptied."""
        return floors_in((await self._jetstream.last_message(STREAM, f"{FLOORS}.{topic.stream}")).data)

    async def sweep(self, topics: Iterable[Topic], *, rest_seconds: float = 0.0) -> None:
        """Delete what may go; leave out topics that somebody swept less than `rest_seconds` ago."""
        await self.save()
        for topic in topics:
            if rest_seconds:
                swept = (await self._jetstream.last_message(STREAM, f"{FLOORS}.{topic.stream}")).time
                if swept and self._clock.now_us() - parse_time(swept) < rest_seconds * 1e6:
                    continue
            limits = await self._limits(topic)
            if limits:
                await self._delete(topic, limits)

    async def _limits(self, topic: Topic) -> dict[int, int]:
        """Up to where each partition may be emptied. With nobody marked, nobody is known to have read anything."""
        marks: dict[str, dict[int, int]] = {}
        for subject, body in await self._collect(f"{SUBJECTS}.marks.{topic.stream}.*.*"):
            *_, subscription, partition = subject.split(".")
            if body.isdigit():
                marks.setdefault(subscription, {})[int(partition)] = int(body)
        if not marks:
            return {}
        slowest = {
            partition: min(positions.get(partition, 0) for positions in marks.values())
            for partition in range(topic.partitions)
        }
        if not any(slowest.values()):
            return {}
        old = await self._written_before(topic)
        return {partition: min(position, old) for partition, position in slowest.items() if min(position, old) > 0}

    async def _written_before(self, topic: Topic) -> int:
        """A position of the stream up to which everything is older than `keep`."""
        if not self._keep_seconds:
            return (1 << 63) - 1
        since_us = self._clock.now_us() - round(self._keep_seconds * 1e6)
        # JetStream finds a time only for a consumer: it tells where one would start.
        config = {"deliver_policy": "by_start_time", "opt_start_time": format_time(max(0, since_us))}
        name = secrets.token_hex(8)
        info = await self._create_consumer(topic.stream, name, config)
        await self._jetstream.ask(f"CONSUMER.DELETE.{topic.stream}.{name}")
        return int(info["delivered"]["stream_seq"])

    async def _delete(self, topic: Topic, limits: dict[int, int]) -> None:
        subject = f"{FLOORS}.{topic.stream}"
        for _ in range(CAS_ATTEMPTS):
            last = await self._jetstream.last_message(STREAM, subject)
            floors = floors_in(last.data)
            raised = {partition: limit for partition, limit in limits.items() if limit > floors.get(partition, 0)}
            if not raised:
                return
            expected = f"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence:{last.seq}\r\n\r\n".encode()
            try:
                await self._jetstream.publish(subject, msgspec.json.encode({**floors, **raised}), expected)
            except ApiError as error:
                if error.code not in Code.WRONG_LAST_SEQUENCE:
                    raise
                continue  # another process sweeps this topic too
            for partition, limit in raised.items():
                await self._purge(topic.stream, {"filter": topic.subject(partition), "seq": limit + 1})
            return

    async def _purge(self, stream: str, what: dict[str, object]) -> None:
        await self._jetstream.ask(f"STREAM.PURGE.{stream}", what)

    async def _write(self, mark: Mark, position: int) -> None:
        stream, subscription, partition = mark
        await self._jetstream.publish(f"{SUBJECTS}.marks.{stream}.{subscription}.{partition}", b"%d" % position)
        self._written[mark] = position

    async def _create_consumer(self, stream: str, name: str, config: Mapping[str, object]) -> dict[str, Any]:
        rest = {
            "name": name,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 10**10,
        }
        return await self._jetstream.ask(
            f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": {**config, **rest}}
        )

    async def _collect(self, subjects: str) -> list[tuple[str, bytes]]:
        """The last message of every subject."""
        name = secrets.token_hex(8)
        config = {"deliver_policy": "last_per_subject", "filter_subject": subjects}
        connection = await self._connect()
        info = await self._create_consumer(STREAM, name, config)
        count = int(info["num_pending"])
        if not count:
            return []
        found: list[tuple[str, bytes]] = []
        complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        inbox = f"{connection.inbox.decode()}.m.{name}"

        def receive(words: list[bytes], _headers: bytes, body: bytes) -> None:
            status = words[0] == inbox.encode()
            if not status:
                found.append((words[0].decode(), body))
            if (status or len(found) == count) and not complete.done():
                complete.set_result(None)

        number = connection.subscribe(inbox.encode(), receive)
        try:
            question = msgspec.json.encode({"batch": count, "no_wait": True})
            ask = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name}"
            connection.write(f"PUB {ask} {inbox} {len(question)}\r\n".encode() + question + b"\r\n")
            async with asyncio.timeout(COLLECT_SECONDS):
                await complete
        except TimeoutError:
            raise TransportUnavailable("NATS: the marks could not be read in time") from None
        finally:
            connection.unsubscribe(number)
        if len(found) < count:  # incomplete marks would let go what somebody has still to read
            raise TransportUnavailable(f"NATS: {len(found)} of {count} marks could be read")
        await self._jetstream.ask(f"CONSUMER.DELETE.{STREAM}.{name}")
        return found

    async def keep_house(self, topics: Callable[[], Iterable[Topic]]) -> None:
        """Save marks and sweep, for as long as the log is open. A failure is logged and tried again."""
        until_sweep = RETAIN_EVERY
        while True:
            await self._clock.sleep(MARKS_EVERY)
            until_sweep -= MARKS_EVERY
            try:
                await self.save()
                if until_sweep <= 0:
                    until_sweep = RETAIN_EVERY
                    await self.sweep(tuple(topics()), rest_seconds=RETAIN_EVERY / 2)
            except (TransportUnavailable, Misconfigured) as error:
                self._instrumentation.log("warning", "log_housekeeping_failed", error=str(error))
