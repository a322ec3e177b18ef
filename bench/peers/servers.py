"""The engines of a run: those that the chosen rows need, at the durability that everybody gets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from millstream.testing.engines.kafka import KAFKA_VERSION, KafkaServer
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.testing.engines.rabbitmq import RabbitmqServer
from millstream.testing.engines.redis import RedisServer
from millstream.testing.engines.server import EngineServer, EngineUnavailable

from .database import SETTINGS

__all__ = ["DURABILITY", "Engines", "engines_in"]

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


class Engines:
    """The servers of a run, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[str, EngineServer] = {}

    def ready(self, names: Collection[str]) -> list[str]:
        """Start these engines, also those that a row before has brought down; why any of them is not there."""
        reasons: list[str] = []
        for name in names:
            server = self._servers.setdefault(name, _SERVERS[name](self._folder / name))
            try:
                server.start()
            except Exception as error:  # noqa: BLE001 - whatever it is, the other engines' rows can still be measured
                reasons.append(f"{name} did not start: {error}")
        return reasons

    def url(self, name: str) -> str:
        """What Millstream's configuration takes."""
        return self._servers[name].url

    def pid(self, name: str) -> int:
        """The process that started all others of the engine."""
        pid = self._servers[name].pid
        if pid is None:
            raise EngineUnavailable(f"{name} has ended: {self._servers[name].log_tail(5)}")
        return pid

    def stop(self) -> None:
        """All of them."""
        for server in self._servers.values():
            server.stop()


@contextmanager
def engines_in(folder: Path) -> Generator[Engines]:
    """Engines whose data lies in this folder; they are stopped on leaving."""
    engines = Engines(folder)
    try:
        yield engines
    finally:
        engines.stop()
