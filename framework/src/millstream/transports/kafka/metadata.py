"""Asking the brokers which topics there are.

Any broker answers, so this goes on while a cluster looks for a new controller, which the driver's own questions about topics wait
for. What a question costs is a thread for as long as it takes: the driver has no other way to ask.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast, final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, TopicMetadata  # pyright: ignore[reportPrivateImportUsage] - this is where its documentation has them

from ...errors import Misconfigured, TransportUnavailable
from .connection import NOT_THERE, Connection, translated

__all__ = ["ATTEMPTS", "Metadata"]

THREADS = 4
ATTEMPTS = 3
"""How many brokers are asked within the time that one answer may take: the first may be the one that has stalled."""

_ASK_ANOTHER: Final = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError.LEADER_NOT_AVAILABLE,
    }
)


@final
class Metadata:
    """seconds: how long one answer may take."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        try:
            # It does not say what its futures give.
            self.admin = cast(Any, AdminClient(connection.settings(error_cb=self._note)))
        except KafkaException as error:
            raise Misconfigured(f"kafka: {error.args[0].str()}") from error
        self._hosts = connection.hosts
        self._seconds = seconds
        self._trouble: KafkaError | None = None
        """Why brokers cannot be reached, as the driver tells it beside its answers."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="millstream-kafka-metadata")

    async def of(self, topic: str) -> TopicMetadata | None:
        """What a broker knows of a topic; None when it knows none. In a cluster another one may know more.

        Raises:
            Misconfigured: not allowed, or not a name for a topic.
            TransportUnavailable: no answer in time.
        """
        doing = f"asking for topic {topic} at {self._hosts}"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    try:
                        return await loop.run_in_executor(self._threads, self._ask, topic)
                    except KafkaException as error:
                        if error.args[0].code() not in _ASK_ANOTHER:
                            raise translated(error, doing) from error
                    if self._trouble is not None and self._trouble.code() == KafkaError._AUTHENTICATION:
                        raise translated(self._trouble, doing)
        except TimeoutError:
            trouble = f"; last error: {self._trouble.str()}" if self._trouble is not None else ""
            raise TransportUnavailable(f"kafka: {doing}: no answer after {self._seconds:g} s{trouble}") from None

    def close(self) -> None:
        """Ask nothing more. A question that is under way ends when its time is over."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _note(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # which comes behind a reason, and says less
            self._trouble = error

    def _ask(self, topic: str) -> TopicMetadata | None:
        try:
            found: TopicMetadata = self.admin.list_topics(topic, timeout=self._seconds / ATTEMPTS).topics[topic]
        except KafkaException:
            self.admin.poll(0)  # calls `_note`
            raise
        self._trouble = None
        if found.error is not None:
            if found.error.code() in NOT_THERE:
                return None
            raise KafkaException(found.error)
        return found
