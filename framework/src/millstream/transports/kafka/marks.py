"""Marks: offsets committed in the name of a group per subscription, so that Kafka's own tools show its lag.

They hold nothing back and are read by nobody here. Brokers forget them after seven days without a commit.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from ...errors import MillstreamError
from .connection import answered, translated
from .topics import Topics

__all__ = ["Marks"]

COMMIT_SECONDS = 5.0
"""How old a lag may be that a tool shows."""
_NOTHING_THERE = frozenset({KafkaError.GROUP_ID_NOT_FOUND, KafkaError.NON_EMPTY_GROUP})


@final
class Marks:
    """Collects marks, and commits the last one of each partition from time to time."""

    def __init__(self, topics: Topics, seconds: float) -> None:
        self._topics = topics
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
            request = ConsumerGroupTopicPartitions(
                group, [TopicPartition(topic, partition, offset) for (topic, partition), offset in positions.items()]
            )
            asked = self._topics.admin.alter_consumer_group_offsets([request], request_timeout=self._seconds)
            await self._topics.answer(asked[group], f"committing the offsets of {group}")

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
