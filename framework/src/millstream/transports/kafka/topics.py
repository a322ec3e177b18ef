"""Topics as the brokers describe them: how many partitions, how large a record, from where to where."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, TypeVar, final

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic, OffsetSpec, ResourceType, TopicMetadata  # pyright: ignore[reportPrivateImportUsage] - this is where its documentation has them

from ...errors import Misconfigured, TransportUnavailable
from ...ports.transport import Bounds, Durability
from .connection import NOT_THERE, Connection, answered, translated
from .durability import Copies, copies, too_weak
from .metadata import ATTEMPTS, Metadata
from .wire import OVERHEAD_BYTES

__all__ = ["Layout", "Topics"]

_Found = TypeVar("_Found")

LOOK_AGAIN_SECONDS = 0.02
SPREAD_SECONDS = 1.0
"""In a cluster one broker hears of a new topic after another: for so long one that does not know it is asked again."""
_ON_ITS_WAY: Final = NOT_THERE | {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError._TIMED_OUT,
}


class Layout(NamedTuple):
    """How `provision` creates a topic. None: what the brokers do by default."""

    replication: int | None
    min_insync: int | None
    keep_seconds: float
    largest_record_bytes: int
    flush: bool


class _Topic(NamedTuple):
    partitions: int
    largest_record_bytes: int


@final
class Topics:
    """Asks and tells the brokers; remembers what it needs for every record. `seconds`: how long one answer may take."""

    def __init__(self, connection: Connection, layout: Layout, seconds: float) -> None:
        self._metadata = Metadata(connection, seconds)
        self.admin = self._metadata.admin
        self._hosts = connection.hosts
        self._layout = layout
        self._seconds = seconds
        self._known: dict[str, _Topic] = {}

    async def answer(self, future: Future[Any], doing: str) -> Any:
        """What the brokers answer.

        Raises:
            Misconfigured: not allowed, or not possible as configured.
            TransportUnavailable: no answer in time, or one that may be another one later.
        """
        try:
            return await answered(future)
        except KafkaException as error:
            raise translated(error, f"{doing} at {self._hosts}") from error

    def close(self) -> None:
        """Ask nothing more about topics. Idempotent."""
        self._metadata.close()

    # -- what there is ------------------------------------------------------------------------------------------

    async def partitions(self, topic: str) -> int | None:
        """Ask the brokers; None when there is no such topic."""
        ask = self._metadata.of
        found = await (self._settled(ask, topic) if topic in self._known else ask(topic))
        return None if found is None else len(found.partitions)

    async def missing(self, topics: set[str]) -> set[str]:
        """Those of them that are gone."""
        return {topic for topic in sorted(topics) if await self._settled(self._metadata.of, topic) is None}

    def forget(self, topic: str) -> None:
        """Ask again before the next record."""
        self._known.pop(topic, None)

    async def check(self, topic: str, partition: int) -> None:
        """Ask the brokers for a partition.

        Raises:
            Misconfigured: there is no such topic, or no such partition of it.
        """
        _check(topic, partition, len((await self._described(topic)).partitions))

    async def largest(self, topic: str, partition: int) -> int:
        """The largest record that a partition takes. Asks the brokers about what is not known yet.

        Raises:
            Misconfigured: there is no such topic, or no such partition of it.
        """
        known = self._known.get(topic)
        if known is None or not 0 <= partition < known.partitions:
            known = await self._learn(topic)
        _check(topic, partition, known.partitions)
        return known.largest_record_bytes

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """The low watermark and the last stable offset: both are positions as they are. Asks again while the partition is on
        its way to another leader.

        Raises:
            Misconfigured: there is no such topic, or no such partition of it.
            TransportUnavailable: no leader, or none that answers.
        """
        await self.largest(topic, partition)
        place, doing = (
            TopicPartition(topic, partition),
            f"asking for the bounds of {topic}/{partition} at {self._hosts}",
        )
        loop = asyncio.get_running_loop()
        until, one = loop.time() + self._seconds, self._seconds / ATTEMPTS
        while True:
            asked = [
                self.admin.list_offsets(
                    {place: spec}, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=one
                )[place]
                for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
            ]
            try:
                earliest, latest = [int((await answered(future)).offset) for future in asked]
            except KafkaException as error:
                if error.args[0].code() not in _ON_ITS_WAY or loop.time() + one > until:
                    raise translated(error, doing) from error
            else:
                if earliest >= 0 and latest >= 0:
                    return Bounds(earliest=earliest, latest=latest)
                # What the driver makes of a leader that did not answer in time.
                if loop.time() + one > until:
                    raise TransportUnavailable(f"kafka: {doing}: no answer after {self._seconds:g} s")
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            await self.check(topic, partition)  # by this the driver learns who leads now

    async def _learn(self, topic: str) -> _Topic:
        self._known.pop(topic, None)
        described = await self._described(topic)
        known = self._known[topic] = _Topic(len(described.partitions), await self._largest(topic))
        return known

    async def _described(self, topic: str) -> TopicMetadata:
        return self._there(topic, await self._settled(self._metadata.of, topic))

    async def _settled(self, ask: Callable[[str], Awaitable[_Found | None]], topic: str) -> _Found | None:
        """What they say of a topic; None only once it had the time to spread among them."""
        loop = asyncio.get_running_loop()
        until = loop.time() + SPREAD_SECONDS
        while True:
            found = await ask(topic)
            if found is not None or loop.time() > until:
                return found
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _there(self, topic: str, found: _Found | None) -> _Found:
        if found is None:
            raise Misconfigured(f"topic {topic} is not provisioned at {self._hosts}")
        return found

    async def _settings_of(self, topic: str) -> dict[str, str] | None:
        try:
            return await self._settings(ResourceType.TOPIC, topic)
        except KafkaException as error:
            if error.args[0].code() in NOT_THERE:
                return None
            raise translated(error, f"asking for the settings of {topic} at {self._hosts}") from error

    async def _settings(self, kind: ResourceType, name: str) -> dict[str, str]:
        resource = ConfigResource(kind, name)
        asked = self.admin.describe_configs([resource], request_timeout=self._seconds)
        found = await answered(asked[resource])
        return {entry.name: entry.value for entry in found.values() if entry.value is not None}

    async def _largest(self, topic: str) -> int:
        ours = self._layout.largest_record_bytes
        try:
            settings = await self._settled(self._settings_of, topic)
        except Misconfigured:
            return ours  # not allowed to ask: the broker refuses what is too large
        return min(ours, int(self._there(topic, settings)["max.message.bytes"]) - OVERHEAD_BYTES)

    # -- what there is to be ------------------------------------------------------------------------------------

    async def provision(self, topic: str, partitions: int) -> None:
        """Create a topic and wait until every partition has a leader; or compare with what is there."""
        if partitions < 1:
            raise Misconfigured(f"topic {topic}: {partitions} partitions; a topic has at least one")
        if await self._metadata.of(topic) is None:
            await self._create(topic, partitions)
        described = await self._with_leaders(topic)
        if len(described.partitions) != partitions:
            raise Misconfigured(
                f"topic {topic} has {len(described.partitions)} partitions, not {partitions}; "
                "changing the count is drain and switch"
            )
        largest = (await self._learn(topic)).largest_record_bytes
        if largest < self._layout.largest_record_bytes:
            raise Misconfigured(
                f"topic {topic} takes records up to {largest} bytes: set its max.message.bytes to "
                f"{self._layout.largest_record_bytes + OVERHEAD_BYTES}, or say ?largest_record_bytes={largest}"
            )

    async def _create(self, topic: str, partitions: int) -> None:
        layout = self._layout
        config = {
            "cleanup.policy": "delete",
            "retention.ms": str(round(layout.keep_seconds * 1000)),
            "retention.bytes": "-1",
            "max.message.bytes": str(layout.largest_record_bytes + OVERHEAD_BYTES),
            # Retention goes by the records' time: by the brokers' clock, or a producer with a wrong one deletes the log.
            "message.timestamp.type": "LogAppendTime",
            "unclean.leader.election.enable": "false",
        }
        if layout.min_insync is not None:
            config["min.insync.replicas"] = str(layout.min_insync)
        if layout.flush:
            config["flush.messages"] = "1"
        replication = -1 if layout.replication is None else layout.replication
        created = self.admin.create_topics(
            [NewTopic(topic, partitions, replication, config=config)], request_timeout=self._seconds
        )
        try:
            await answered(created[topic])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translated(error, f"creating topic {topic} at {self._hosts}") from error

    async def _with_leaders(self, topic: str) -> TopicMetadata:
        """The description of a topic that exists, once nothing of it is on its way any more."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds
        while True:
            described = await self._metadata.of(topic)
            if described is not None and all(found.leader >= 0 for found in described.partitions.values()):
                return described
            if loop.time() > until:
                raise TransportUnavailable(f"kafka: topic {topic} has partitions without a leader at {self._hosts}")
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    # -- how safe it is -----------------------------------------------------------------------------------------

    async def durability(self) -> Durability:
        """The weakest of the topics in use; before there are any, what a new one would get."""
        weakest = ""
        for topic in sorted(self._known) or [None]:
            found = await self._copies_of(topic) if topic is not None else await self._copies_by_default()
            weakest = weakest or too_weak(found, f"topic {topic}" if topic is not None else "a new topic")
        return Durability(process_crash=True, power_loss=not weakest, why_not=weakest)

    async def _copies_of(self, topic: str) -> Copies:
        described = await self._described(topic)
        settings = self._there(topic, await self._settled(self._settings_of, topic))
        replication = min(len(found.replicas) for found in described.partitions.values())
        return copies(replication, settings, "flush.messages")

    async def _copies_by_default(self) -> Copies:
        try:
            cluster = await answered(self.admin.describe_cluster(request_timeout=self._seconds))
            settings = await self._settings(ResourceType.BROKER, str(cluster.nodes[0].id))
        except KafkaException as error:
            raise translated(error, f"asking for the brokers at {self._hosts}") from error
        layout = self._layout
        replication = layout.replication or int(settings["default.replication.factor"])
        if layout.min_insync is not None:
            settings["min.insync.replicas"] = str(layout.min_insync)
        if layout.flush:
            settings["log.flush.interval.messages"] = "1"
        settings["unclean.leader.election.enable"] = "false"  # as topics are created
        return copies(replication, settings, "log.flush.interval.messages")


def _check(topic: str, partition: int, partitions: int) -> None:
    if not 0 <= partition < partitions:
        raise Misconfigured(f"topic {topic} has partitions 0 to {partitions - 1}, not {partition}")
