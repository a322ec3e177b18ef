"""Topics as streams: one stream each, with a subject per partition.

The stream's metadata keeps the partition count. It is created with file storage, without limits on age, and refuses new
records when it is full (`discard: new`), so that nothing is ever dropped behind a reader's back.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import Misconfigured
from .jetstream import ApiError, Code, JetStream
from .wire import escape, subject_prefix

__all__ = ["Topic", "Topics"]

PARTITIONS = "millstream.partitions"
"""Where the stream's metadata keeps the count."""
MAX_STREAM_NAME_BYTES = 255


class Topic(msgspec.Struct, frozen=True):
    """A provisioned topic."""

    name: str
    stream: str
    prefix: str
    partitions: int
    atomic: bool
    """The stream takes atomic batches."""
    replicas: int
    memory_only: bool
    persists_late: bool
    """`persist_mode: async`: the server confirms before it writes."""
    max_message_bytes: int | None
    """A bound that an operator gave the stream; headers count."""

    def subject(self, partition: int) -> str:
        """Where a partition's records are published.

        Raises:
            Misconfigured: there is no such partition.
        """
        if not 0 <= partition < self.partitions:
            raise Misconfigured(f"topic {self.name} has partitions 0 to {self.partitions - 1}, not {partition}")
        return f"{self.prefix}{partition}"


class Topics:
    """The topics that were looked up. A count never changes, so that what is known stays true."""

    def __init__(self, jetstream: JetStream, replicas: int, atomic: bool) -> None:
        self._jetstream = jetstream
        self._replicas = replicas
        self._atomic = atomic
        self.known: dict[str, Topic] = {}

    async def get(self, name: str) -> Topic:
        """A topic.

        Raises:
            Misconfigured: it was never provisioned.
        """
        topic = self.known.get(name) or await self.find(name)
        if topic is None:
            raise self._unknown(name)
        return topic

    async def find(self, name: str) -> Topic | None:
        """A topic as it is now; None when it does not exist.

        Raises:
            Misconfigured: its stream exists and is none of ours.
        """
        found = await self._look(name)
        return None if found is None else found[0]

    async def state(self, name: str) -> tuple[Topic, dict[str, Any]]:
        """A topic as it is now, and what its stream holds.

        Raises:
            Misconfigured: it does not exist (any more).
        """
        found = await self._look(name)
        if found is None:
            raise self._unknown(name)
        return found

    async def _look(self, name: str) -> tuple[Topic, dict[str, Any]] | None:
        stream = _stream(name)
        try:
            info = await self._jetstream.ask(f"STREAM.INFO.{stream}")
        except ApiError as error:
            if error.code == Code.STREAM_NOT_FOUND:
                self.known.pop(name, None)
                return None
            raise
        return self._remember(name, info["config"]), info["state"]

    def _unknown(self, name: str) -> Misconfigured:
        return Misconfigured(f"topic {name} is not provisioned: there is no stream {_stream(name)}")

    def forget(self, name: str) -> None:
        """Look it up again next time: the engine contradicted what we knew."""
        self.known.pop(name, None)

    async def provision(self, name: str, partitions: int) -> None:
        """Create a topic, or lift an existing one to what is configured now: atomic batches, more replicas.

        Raises:
            Misconfigured: it exists with another count, or cannot be created as configured.
        """
        if partitions < 1:
            raise Misconfigured(f"topic {name}: {partitions} partitions; a topic has at least one")
        existing = await self.find(name)
        if existing is None:
            existing = await self._create(name, partitions)
        if existing.partitions != partitions:
            raise Misconfigured(
                f"topic {name} has {existing.partitions} partitions, not {partitions}; "
                "changing the count is drain and switch"
            )
        if existing.replicas < self._replicas or (self._atomic and not existing.atomic):
            await self._lift(existing)

    async def _create(self, name: str, partitions: int) -> Topic:
        stream = _stream(name)
        config: dict[str, Any] = {
            "name": stream,
            "description": f"Millstream topic {name}",
            "subjects": [f"{subject_prefix(name)}*"],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_age": 0,
            "num_replicas": self._replicas,
            "allow_atomic": self._atomic,
            "metadata": {PARTITIONS: str(partitions)},
        }
        try:
            answer = await self._jetstream.ask(f"STREAM.CREATE.{stream}", config)
        except ApiError as error:
            if error.code == Code.STREAM_EXISTS:  # another process was faster: what it made counts
                found = await self.find(name)
                if found is not None:
                    return found
            if error.code in Code.CONFIGURATION:
                raise Misconfigured(f"topic {name}: {error}") from error
            raise
        return self._remember(name, answer["config"])

    async def _lift(self, topic: Topic) -> None:
        config = (await self._jetstream.ask(f"STREAM.INFO.{topic.stream}"))["config"]
        config["num_replicas"] = max(self._replicas, config["num_replicas"])
        config["allow_atomic"] = self._atomic or config.get("allow_atomic", False)
        try:
            answer = await self._jetstream.ask(f"STREAM.UPDATE.{topic.stream}", config)
        except ApiError as error:
            if error.code in Code.CONFIGURATION:
                raise Misconfigured(f"topic {topic.name}: {error}") from error
            raise
        self._remember(topic.name, answer["config"])

    def _remember(self, name: str, config: dict[str, Any]) -> Topic:
        metadata: dict[str, str] = config.get("metadata") or {}
        partitions = metadata.get(PARTITIONS, "")
        if not partitions.isdigit():
            raise Misconfigured(
                f"topic {name}: the stream {config['name']} exists and was not made by Millstream: its metadata has no "
                f"{PARTITIONS}. Give the topic another name, or the server another account."
            )
        limit = config.get("max_msg_size", -1)
        topic = Topic(
            name=name,
            stream=config["name"],
            prefix=subject_prefix(name),
            partitions=int(partitions),
            atomic=self._atomic and config.get("allow_atomic", False),
            replicas=config["num_replicas"],
            memory_only=config["storage"] != "file",
            persists_late=config.get("persist_mode") == "async",
            max_message_bytes=limit if limit > 0 else None,
        )
        self.known[name] = topic
        return topic


def _stream(topic: str) -> str:
    name = escape(topic)
    if len(name) > MAX_STREAM_NAME_BYTES:
        raise Misconfigured(
            f"topic {topic[:40]}…: its stream's name has {len(name)} bytes; NATS allows {MAX_STREAM_NAME_BYTES}"
        )
    if not name:
        raise Misconfigured("a topic needs a name")
    return name
