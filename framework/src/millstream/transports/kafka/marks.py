"""Marks: offsets committed in the name of a group per subscription, so that Kafka's own tools show its lag.

They hold nothing back and are read by nobody here. Brokers forget them after seven days without a commit.

A consumer of the group commits, not the admin client: that one calls abort() when the connection to the group's
coordinator breaks at the wrong moment (librdkafka issue 4605, pull request 5397), which network faults and a killed
broker reach within seconds. Its request to delete a group could do so too; only a retired subscription makes one.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ...errors import MillstreamError, TransportUnavailable
from .connection import Connection, answered, translated
from .topics import Topics

__all__ = ["Marks"]

COMMIT_SECONDS = 5.0
"""How old a lag may be that a tool shows."""
POLL_SECONDS = 0.1
_NOTHING_THERE = frozenset({KafkaError.GROUP_ID_NOT_FOUND, KafkaError.NON_EMPTY_GROUP})


@final
class Marks:
    """Collects marks, and commits the last one of each partition from time to time."""

    def __init__(self, topics: Topics, connection: Connection, seconds: float) -> None:
        self._topics = topics
        self._connection = connection
        self._seconds = seconds
        self._changed: dict[str, dict[tuple[str, int], int]] = {}

    def set(self, subscription: str, topic: str, partition: int, position: int) -> None:
        # The offset that a group commits is that of its next record, which is the position of the last one.
        self._changed.setdefault(subscription, {})[topic, partition] = position

    async def keep_committing(self) -> None:
        """For ever. What cannot be committed is left out: the next mark says more."""
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            with suppress(MillstreamError):
                await self.commit()

    async def commit(self) -> None:
        """Commit what has changed."""
        changed, self._changed = self._changed, {}
        for group, positions in changed.items():
            places = [TopicPartition(topic, partition, offset) for (topic, partition), offset in positions.items()]
            await asyncio.to_thread(self._commit, group, places)

    def _commit(self, group: str, places: list[TopicPartition]) -> None:
        """In a thread. The consumer lives for one commit: kept ones would cost threads and connections per subscription."""
        doing = f"committing the offsets of {group}"
        answers: list[KafkaError | None] = []

        def heard(error: KafkaError | None, _: list[TopicPartition]) -> None:
            answers.append(error)

        settings = {"group.id": group, "enable.auto.commit": False, "on_commit": heard}
        consumer = Consumer(self._connection.settings(**settings))
        try:
            consumer.commit(offsets=places, asynchronous=True)
            until = time.monotonic() + self._seconds
            while not answers:
                if time.monotonic() > until:
                    raise TransportUnavailable(f"kafka: {doing}: no answer in {self._seconds:g} s")
                consumer.poll(POLL_SECONDS)
        except KafkaException as error:
            raise translated(error, doing) from error
        finally:
            consumer.close()
        if answers[0] is not None:
            raise translated(answers[0], doing)

    async def forget(self, subscription: str, topic: str) -> None:
        """Delete the group of a subscription, which reads one topic and no other."""
        kept = {place: at for place, at in self._changed.pop(subscription, {}).items() if place[0] != topic}
        if kept:
            self._changed[subscription] = kept
        asked = self._topics.admin.delete_consumer_groups([subscription], request_timeout=self._seconds)
        try:
            await answered(asked[subscription])
        except KafkaException as error:
            if error.args[0].code() not in _NOTHING_THERE:
                raise translated(error, f"deleting the group {subscription}") from error
