"""Which engines a journey runs on: real servers, each started once for all tests of a run when the first one asks for it.

Time: services, SQLite and PostgreSQL go by the clock in hand. A log's own time stays real, since a broker's does: what is
on its way to or from it is waited for (`OnEngines.at_rest`), then the test moves the clock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from millstream.clock import Duration, SystemClock
from millstream.ports.instrumentation import Silent
from millstream.ports.store import Store
from millstream.ports.transport import Transport
from millstream.runtime.adapters import AdapterContext, open_store, open_transport
from millstream.runtime.runtime import Composition, Runtime
from millstream.service.service import Service
from millstream.stores.postgresql import PostgresqlStore
from millstream.testing.engines.kafka import KafkaServer
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.testing.engines.rabbitmq import RabbitmqServer
from millstream.testing.engines.redis import RedisServer
from millstream.testing.engines.server import EngineServer
from millstream.testing.harness import Harness

from .own_topics import Observed
from .split_harness import SplitHarness

__all__ = ["DEFAULTS", "EVERY_PAIR", "LOGS", "PAIRWISE", "Engines", "OnEngines", "System", "harness"]

STORES = ("sqlite", "postgresql")
LOGS = ("log", "nats", "kafka", "rabbitmq", "redis", "postgresql")
# A power cut does not happen here, and not waiting for the disk makes them fast. All of them survive being killed.
SERVERS: dict[str, Callable[[Path], EngineServer]] = {
    "postgresql": lambda folder: PostgresqlServer(folder, {"fsync": "off"}),
    "nats": lambda folder: NatsServer(folder, sync_interval="2m"),
    "kafka": KafkaServer,
    "rabbitmq": RabbitmqServer,
    "redis": lambda folder: RedisServer(folder, settings={"appendfsync": "no"}),
}
PATIENCE = 30.0
"""Real seconds after which a log that moves nothing is left behind: the test then says what it misses."""
STILL_SECONDS = 1.0
"""How long nothing moves before what is in flight counts as stuck, and time goes on: it waits for the clock in hand."""
AGAIN_STILL_SECONDS = 0.02
"""The same for what was stuck already before time went on."""


@dataclass(frozen=True)
class System:
    """One way to run the services. shape: `single` or `split`; memory is the log of the harness itself."""

    shape: str
    store: str = "sqlite"
    log: str = "memory"

    def __str__(self) -> str:
        return self.shape if self.log == "memory" else f"{self.shape}-{self.store}-{self.log}"


DEFAULTS = (System("single"), System("split"))
EVERY_PAIR = tuple(itertools.starmap(System, itertools.product(("single", "split"), STORES, LOGS)))
# Each log meets both stores and both shapes, and each store both shapes, in half of all rows.
PAIRWISE = tuple(
    System(("single", "split")[(s + n) % 2], store, log) for n, log in enumerate(LOGS) for s, store in enumerate(STORES)
)


class Engines:
    """The servers of a run of tests. Leave with `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._servers: dict[str, EngineServer] = {}
        self._numbers = itertools.count(1)

    def server(self, name: str) -> EngineServer:
        """An engine, started now if it is not yet."""
        if name not in self._servers:
            self._servers[name] = self._stack.enter_context(SERVERS[name](self._folder / name))
        return self._servers[name]

    def url(self, name: str) -> str:
        """What `--store` and `--transport` take; schemas of one database on PostgreSQL, which are faster to make."""
        if name == "log":
            return name
        return f"{self.server(name).url}/journeys" if name == "postgresql" else self.server(name).url

    def name(self) -> str:
        """A fresh name, for what one test keeps on them."""
        return f"j{next(self._numbers)}"

    def close(self) -> None:
        self._stack.close()


class OnEngines(Harness):
    """A harness on the engines of a system. Another one at the same `place` is a restart."""

    def __init__(self, *services: Any, engines: Engines, system: System, place: str, **options: Any) -> None:
        # Two partitions: a broker takes its time for each, and with one nothing could go to the wrong one.
        super().__init__(*services, partitions=2, **options)
        self._engines = engines
        self._system = system
        self._place = place
        self._topics = Observed(self._open_log, place, self._published, one_process=system.log == "log")
        self.transport: Any = self._topics
        self._stuck: list[str] = []

    def _open_log(self) -> Transport:
        assert self._data is not None
        return open_transport(self._engines.url(self._system.log), AdapterContext(self._data, SystemClock(), Silent()))

    def _open_store(self, name: str, data: Path) -> Store:
        if self._system.store == "sqlite":
            return super()._open_store(name, data)
        return open_store(self._engines.url("postgresql"), f"{self._place}-{name}", data, self.clock, Silent())

    def _busy(self, store: Store) -> bool:
        return store.busy if isinstance(store, PostgresqlStore) else super()._busy(store)

    async def advance(self, duration: Duration) -> None:
        """Let time pass, once what is on its way has arrived: with a log in memory it is there at once."""
        await self.at_rest()
        await super().advance(duration)

    async def at_rest(self) -> None:
        """Return once nothing is on its way any more, or what is does not move: it waits for the clock in hand."""
        loop = asyncio.get_running_loop()
        until, since, before = loop.time() + PATIENCE, loop.time(), list[str]()
        while found := await self._in_flight():
            if found != before:
                before, since = found, loop.time()
            still = AGAIN_STILL_SECONDS if found == self._stuck else STILL_SECONDS
            if loop.time() > min(until, since + still):
                break
            await asyncio.sleep(0.005)
        self._stuck = found


class _Single(OnEngines):
    async def _run(self, composition: Composition) -> Runtime:
        await self._stack.enter_async_context(self._topics)
        return await super()._run(replace(composition, transport=cast(Transport, self._topics.connection())))


class _Split(OnEngines, SplitHarness):
    def _log_of(self, composition: Composition) -> Any:
        return self._topics.connection()


ON_ENGINES: dict[str, type[OnEngines]] = {"single": _Single, "split": _Split}
PLAIN: dict[str, type[Harness]] = {"single": Harness, "split": SplitHarness}


def harness(system: System, engines: Engines, place: str, *services: Service, **options: Any) -> Harness:
    """A harness for a system, not open yet."""
    if system.log == "memory":
        return PLAIN[system.shape](*services, **options)
    return ON_ENGINES[system.shape](*services, engines=engines, system=system, place=place, **options)
