"""How to reach the brokers, and what their errors mean to a caller.

Every client of a transport is made from one `Connection`. It never shows its password: not in an error, not in a log, not
in its own representation.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from ...errors import MillstreamError, Misconfigured, TransportUnavailable

__all__ = ["NOT_THERE", "REFUSALS", "Connection", "answered", "translated"]

_SETTINGS: Final[dict[str, Any]] = {
    "client.id": "millstream",
    "allow.auto.create.topics": False,
    # What goes wrong is raised where somebody waits for it; librdkafka would print it.
    "log_level": 0,
    "socket.nagle.disable": True,
    # A broker that takes connections and does not answer: by default nobody would notice for a minute. Another broker of
    # the cluster must get its turn within the ten seconds of a call.
    "socket.timeout.ms": 5_000,
    "socket.connection.setup.timeout.ms": 3_000,
    # A broker is back within seconds; by default the client may look for it ten seconds later.
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,
}

_UNAUTHORISED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)
NOT_THERE: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
"""The topic, or this partition of it, does not exist, or does not yet."""

REFUSALS: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.INVALID_RECORD,
    }
)
"""A record with one of these will never be taken as things stand."""

_WRONG: Final = frozenset(
    {
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REQUEST,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
    }
)


@dataclass(frozen=True)
class Connection:
    """hosts: `host:port` separated by commas. ca: a file with the authorities that sign the brokers' certificates."""

    hosts: str
    user: str = ""
    password: str = field(default="", repr=False)
    mechanism: str = "PLAIN"
    tls: bool = False
    ca: str = ""

    def settings(self, **more: Any) -> dict[str, Any]:
        """librdkafka's configuration of a client; names with `_` for `.`."""
        protocol = ("SASL_" if self.user else "") + ("SSL" if self.tls else "PLAINTEXT")
        settings = {**_SETTINGS, "bootstrap.servers": self.hosts, "security.protocol": protocol}
        if self.user:
            settings |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": self.user,
                "sasl.password": self.password,
            }
        if self.ca:
            settings["ssl.ca.location"] = self.ca
        return settings | more


async def answered(future: Future[Any]) -> Any:
    """What the driver answers. Cancelling leaves the question with it, which cannot take it back."""
    waiting = asyncio.wrap_future(future)
    waiting.add_done_callback(_heard)
    return await asyncio.shield(waiting)


def _heard(done: asyncio.Future[Any]) -> None:
    """Whoever asked may have gone: then an error is for nobody, and nothing to report."""
    if not done.cancelled():
        done.exception()


def translated(error: KafkaException | KafkaError, doing: str) -> MillstreamError:
    """What to raise instead of the driver's error. Unknown ones are taken for an outage: trying again cannot harm."""
    reason: KafkaError = error.args[0] if isinstance(error, KafkaException) else error
    text = f"kafka: {doing}: {reason.str()} ({reason.name()})"
    if reason.code() in _UNAUTHORISED or reason.code() in _WRONG:
        return Misconfigured(text)
    return TransportUnavailable(text)
