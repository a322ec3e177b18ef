"""The engines of a run: those that the chosen rows need, started once, at the durability that everybody gets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from millstream.testing.engines.kafka import KAFKA_VERSION, KafkaServer
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.testing.engines.rabbitmq import RabbitmqServer
from millstream.testing.engines.redis import RedisServer
from millstream.testing.engines.server import EngineServer

from .database import SETTINGS

__all__ = ["DURABILITY", "Engines", "start"]

DURABILITY = {
    "postgresql": "17: fsync, synchronous_commit and full_page_writes on",
    "nats": "JetStream on files, sync_interval always: confirmed after fsync",
    "kafka": f"{KAFKA_VERSION}, KRaft, one node: confirmed from the page cache, as always",
    "rabbitmq": "one node: quorum queues confirm after fsync, stream queues from the page cache",
    "redis": "appendonly yes, appendfsync always, noeviction",
}
_SERVERS: Mapping[str, Callable[[Path], EngineServer]] = {
    "postgresql": lambda folder: PostgresqlServer(folder, SETTINGS),
    "nats": NatsServer,
    "kafka": KafkaServer,
    "rabbitmq": RabbitmqServer,
    "redis": RedisServer,
}


@dataclass(frozen=True)
class Engines:
    """urls: what Millstream's configuration takes, by engine. pids: their processes. failed: why one did not start."""

    urls: Mapping[str, str]
    pids: Mapping[str, int]
    failed: Mapping[str, str]


@contextmanager
def start(names: Collection[str], folder: Path) -> Generator[Engines]:
    """Start these engines; they are stopped on leaving. One that does not start is noted: only its rows fail."""
    urls: dict[str, str] = {}
    pids: dict[str, int] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        for name in names:
            server = _SERVERS[name](folder / name)
            try:
                stack.enter_context(server)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other engines' rows can still be measured
                failed[name] = f"{name} did not start: {error}"
                continue
            assert server.pid is not None
            urls[name], pids[name] = server.url, server.pid
        yield Engines(urls, pids, failed)
