"""Taking in a Kafka topic that others fill: `kafka://one:9092,two:9092?topic=orders&group=shop-intake`.

The topic is as its owner made it: any number of partitions, any partitioner. The processes of a service share it as
members of the consumer group; each partition is read by one of them, in order. The group must belong to this intake alone,
because a group reads each record once.

Offsets are committed after acceptance. The client is asked for records only when those before are accepted, and a
partition moves to another member only while it is asked. So a member that loses a partition has nothing of it in hand that
is still to be accepted, but after an outage of the store that was longer than Kafka's patience (five minutes); what is then
read by two is recognised by topic, partition, offset and timestamp.

A group that has no offsets begins with the oldest record. Where offsets were committed and their records are gone, nothing is
skipped: that is an error until somebody moves the group. Mind that Kafka forgets the offsets of a group without members
(`offsets.retention.minutes`, a week by default).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self, TypeVar, final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from ...binary_mode import is_structured
from ...clock import seconds
from ...errors import MillstreamError, Misconfigured, TransportUnavailable
from ...ports.intake import ForeignMessage
from .connection import NOT_THERE, Connection, translated

__all__ = ["IntakeOptions", "KafkaIntake", "open_intake"]

POLL_SECONDS = 0.2
"""How long the thread waits for a record before it looks whether it is to end."""
CLOSE_SECONDS = 5.0
QUEUE_KILOBYTES = 4 * 1024
"""What the client holds beforehand; one message may exceed it."""

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_GONE: Final = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
_NOT_OURS_NOW: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._NO_OFFSET,
        KafkaError._STATE,
    }
)
"""A commit that came while the group divides its partitions anew. The next one says the same, or whoever has the partition
by then reads the records again."""

_Found = TypeVar("_Found")
_Place = tuple[str, int]


class IntakeOptions(msgspec.Struct, frozen=True):
    """Options of the URL."""

    topic: str = ""
    group: str = ""
    session: str | float = "10s"
    """For how long a process that died keeps its partitions from the others. Brokers take six seconds at least."""
    timeout: str | float = "10s"
    """How long a question to the brokers may take."""
    tls: bool = False
    ca: str = ""
    sasl: str = "PLAIN"


def open_intake(url: str, context: object) -> KafkaIntake:  # noqa: ARG001 - every factory gets one
    """Entry point: `kafka://[user:password@]host[:9092][,host…]?topic=orders&group=shop-intake`.

    Options: those of `IntakeOptions`: `tls=true` with `ca=FILE`, and `sasl=PLAIN|SCRAM-SHA-256|SCRAM-SHA-512` with user and
    password.

    Raises:
        Misconfigured: everything that is wrong with the URL. It does not show the password.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    given, known = dict(parse_qsl(parts.query, keep_blank_values=True)), IntakeOptions.__struct_fields__
    problems = [f"unknown option {name!r}; there are {', '.join(known)}" for name in given if name not in known]
    if not hosts:
        problems.append("say where the brokers are: kafka://host:9092,host:9092")
    if credentials and not (user and password):
        problems.append("give user and password, or neither")
    options = IntakeOptions()
    try:
        options = msgspec.convert({k: v for k, v in given.items() if k in known}, IntakeOptions, strict=False)
        problems += _unusable(options)
    except msgspec.ValidationError as error:
        problems.append(str(error))
    if problems:
        shown = f"intake kafka://{'…@' if credentials else ''}{hosts}"
        raise Misconfigured([f"{shown}: {problem}" for problem in problems])
    brokers = ",".join(host if ":" in host else f"{host}:9092" for host in hosts.split(","))
    connection = Connection(
        brokers, unquote(user), unquote(password), options.sasl, options.tls or bool(options.ca), options.ca
    )
    return KafkaIntake(connection, options)


def _unusable(options: IntakeOptions) -> list[str]:
    problems: list[str] = []
    if not options.topic:
        problems.append("say which topic: ?topic=NAME")
    if not options.group:
        problems.append("say which consumer group is this intake's: group=NAME; no other reader may use it")
    for option, value in (("session", options.session), ("timeout", options.timeout)):
        try:
            if seconds(value) <= 0:
                problems.append(f"{option}={value}: it is more than nothing")
        except Misconfigured as error:
            problems.append(f"{option}: {error}")
    if options.sasl not in _MECHANISMS:
        problems.append(f"sasl={options.sasl}: there are {', '.join(_MECHANISMS)}")
    if options.ca and not Path(options.ca).is_file():
        problems.append(f"ca={options.ca}: there is no such file")
    return problems


@final
class KafkaIntake:
    """One member of the group. Everything of the client runs on one thread, one call after the other."""

    def __init__(self, connection: Connection, options: IntakeOptions) -> None:
        self._connection = connection
        self._options = options
        self._wait_seconds = seconds(options.timeout)
        self._name = f"intake: topic {options.topic!r} for group {options.group!r} at {connection.hosts}"
        self._thread: _Thread | None = None
        self._asked: asyncio.Future[list[Message]] | None = None
        self._came: deque[Message] = deque()
        self._returned: dict[_Place, int] = {}
        """Offset behind the last record of each partition that `next` returned and nobody acknowledged."""
        self._error: MillstreamError | None = None
        # Of the thread:
        self._consumer: Consumer | None = None
        self._assigned: set[_Place] = set()
        self._accepted: dict[_Place, int] = {}
        self._down: KafkaError | None = None

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        while not self._came:
            thread = self._check()
            if self._asked is None:
                self._asked = thread.run(lambda: self._fetch(limit))
            # A caller that gives up loses nothing: the next one gets what comes.
            found = await asyncio.shield(self._asked)
            self._asked = None
            self._came.extend(found)
        return self._take(limit)

    async def acknowledge(self) -> None:
        thread = self._check()
        returned, self._returned = self._returned, {}
        if not returned:
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                await asyncio.shield(thread.run(lambda: self._commit(returned)))
        except TimeoutError:
            raise self._fail(TransportUnavailable(f"{self._name}: no answer in {self._wait_seconds:g} s")) from None

    async def __aenter__(self) -> Self:
        self._thread = _Thread()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            # Leaving the group, so that others need not wait until it is noticed. What is in hand is not committed.
            closed = thread.run(self._close)
            thread.end()
            await asyncio.wait([closed], timeout=CLOSE_SECONDS)

    # -- on the event loop --------------------------------------------------------------------------------------

    def _check(self) -> _Thread:
        if self._thread is None:
            raise TransportUnavailable(f"{self._name}: it is closed")
        if self._error is not None:
            raise self._error
        return self._thread

    def _fail(self, error: MillstreamError) -> MillstreamError:
        self._error = error
        return error

    def _take(self, limit: int) -> list[ForeignMessage]:
        found: list[ForeignMessage] = []
        while self._came and len(found) < limit:
            message = self._came.popleft()
            error = message.error()
            if error is not None:
                # What stands behind it was not returned, so it is not committed either: it comes again.
                self._came.clear()
                failed = self._fail(self._translated(error))
                if not found:
                    raise failed
                break
            topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
            self._returned[topic, partition] = offset + 1
            found.append(_foreign(message, f"{topic}/{partition}/{offset}/{message.timestamp()[1]}"))
        return found

    def _translated(self, error: KafkaError) -> MillstreamError:
        topic, group, hosts = self._options.topic, self._options.group, self._connection.hosts
        if error.code() in _GONE:
            return Misconfigured(
                f"{self._name}: {error.str()}: records were deleted before they were taken in, or the topic was made anew. "
                f"Choose where the group goes on, with this service stopped: kafka-consumer-groups.sh --bootstrap-server "
                f"{hosts} --group {group} --topic {topic} --reset-offsets --to-earliest --execute"
            )
        if error.code() in NOT_THERE:
            return Misconfigured(f"{self._name}: there is no such topic")
        return translated(error, f"taking in {topic} for group {group} at {hosts}")

    # -- on the thread ------------------------------------------------------------------------------------------

    def _fetch(self, limit: int) -> list[Message]:
        """Up to `limit` records; none when none came for a moment.

        Raises:
            TransportUnavailable, Misconfigured: the brokers are away, or do not let us in.
        """
        try:
            consumer = self._consumer or self._open()
            message = consumer.poll(POLL_SECONDS)
            found = [] if message is None else [message, *(consumer.consume(limit - 1, 0) if limit > 1 else ())]
        except KafkaException as error:  # of the callbacks, too
            raise self._translated(error.args[0]) from error
        if not found and self._down is not None:
            raise self._translated(self._down)
        return found

    def _open(self) -> Consumer:
        session = round(seconds(self._options.session) * 1000)
        try:
            consumer = self._consumer = Consumer(
                self._connection.settings(
                    **{
                        "group.id": self._options.group,
                        "session.timeout.ms": session,
                        "heartbeat.interval.ms": max(1, session // 4),
                        "enable.auto.commit": False,
                        "enable.auto.offset.store": False,
                        "auto.offset.reset": "error",  # records that are gone are an error, never a leap
                        "isolation.level": "read_committed",
                        "queued.max.messages.kbytes": QUEUE_KILOBYTES,
                        "fetch.max.bytes": QUEUE_KILOBYTES * 1024,
                        "fetch.wait.max.ms": 100,
                        "fetch.error.backoff.ms": 100,
                        "error_cb": self._note,
                    }
                )
            )
        except KafkaException as error:
            raise Misconfigured(f"{self._name}: {error.args[0].str().strip()}") from error
        consumer.subscribe([self._options.topic], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke)
        return consumer

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        placed = consumer.committed(partitions, timeout=self._wait_seconds)
        for place in placed:
            if place.error is not None:
                raise KafkaException(place.error)
            if place.offset < 0:
                place.offset = OFFSET_BEGINNING
        self._assigned = {(place.topic, place.partition) for place in placed}
        consumer.assign(placed)

    def _revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # By now another member may have committed more: a late word of ours would make it read again.
        self._assigned.clear()
        self._accepted.clear()
        consumer.unassign()

    def _commit(self, returned: dict[_Place, int]) -> None:
        self._accepted |= returned
        offsets = [
            TopicPartition(*place, offset) for place, offset in self._accepted.items() if place in self._assigned
        ]
        if self._consumer is None or not offsets:
            return
        try:
            done = self._consumer.commit(offsets=offsets, asynchronous=False) or []
            for place in done:
                if place.error is not None:
                    raise KafkaException(place.error)
        except KafkaException as error:
            if error.args[0].code() not in _NOT_OURS_NOW:
                raise self._translated(error.args[0]) from error
        else:
            self._accepted.clear()

    def _close(self) -> None:
        if self._consumer is not None:
            with suppress(KafkaException):
                self._consumer.close()

    def _note(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION) or error.fatal():
            self._down = error


class _Thread:
    """Runs one call after the other, until `end`. A daemon: a client that never comes back keeps no process alive."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="millstream-kafka-intake", daemon=True).start()

    def run(self, call: Callable[[], _Found]) -> asyncio.Future[_Found]:
        """What the call returns or raises, once it ran."""
        answer: asyncio.Future[_Found] = self._loop.create_future()
        answer.add_done_callback(_heard)

        def work() -> None:
            try:
                found = call()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to who waits for the answer
                self._tell(answer, answer.set_exception, error)
            else:
                self._tell(answer, answer.set_result, found)

        self._calls.put(work)
        return answer

    def end(self) -> None:
        """After what was asked for so far."""
        self._calls.put(None)

    def _tell(self, answer: asyncio.Future[Any], tell: Callable[[Any], None], what: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(lambda: None if answer.done() else tell(what))

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _heard(answer: asyncio.Future[Any]) -> None:
    """Whoever asked may have gone: then an error is for nobody, and nothing to report."""
    if not answer.cancelled():
        answer.exception()


def _foreign(message: Message, identity: str) -> ForeignMessage:
    named = {name.lower(): _text(raw) for name, raw in message.headers() or () if raw is not None}
    content_type = named.pop("content-type", None)
    attributes: dict[str, str] = {}
    if content_type is None or not is_structured(content_type):
        attributes = {name.removeprefix("ce_"): text for name, text in named.items() if name.startswith("ce_")}
    raw = message.key()
    key = attributes.get("partitionkey") if raw is None else _text(raw)
    return ForeignMessage(message.value() or b"", identity, key, content_type, attributes)


def _text(raw: str | bytes) -> str:
    return raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
