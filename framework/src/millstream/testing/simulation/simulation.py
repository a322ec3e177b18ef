"""One run: engines, nodes, time and a seed; and the phases in which it is judged.

Safety is looked at from the first step on, liveness after the heal: faults stop, what is dead starts again, and within
`SETTLE_SECONDS` everything must come to rest. What must hold then is the scenario's own.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import final

from ...delivery.consumption import Limits
from ...message import Record
from ...ports.instrumentation import Instrumentation
from ...ports.store import Row, Store
from ...service.service import Service
from ...transports.memory import MemoryTransport
from ..removals.removal import INTACT, Removal
from .database import Database
from .disturbances import Disturbances
from .log import Refuses
from .loop import Order, SimulationLoop
from .machine import SimulatedClock
from .network import Faults, Network
from .node import Node
from .power import PowerDisk
from .rest import under_way
from .shared_store import SharedStore
from .sqlite import Disk, SimulatedSqliteStore

__all__ = ["Simulation"]

SETTLE_SECONDS = 300.0
MOST_LIVES = 25
"""Of a node after the heal: one that still ends then ends for ever."""
LOOK_SECONDS = 0.5


def _takes_all(_topic: str, _record: Record) -> str | None:
    return None


@final
class Simulation:
    """seed: decides everything. keep: the numbers of the disturbances that happen; None: all. folder: for the stores' files; empty. tell: receives the story, line by line."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        order: Order = "any",
        removal: Removal = INTACT,
        faults: Faults = Faults(),  # noqa: B008 - immutable
        limits: Limits = Limits(lease_seconds=5.0, batch_messages=20),  # noqa: B008 - immutable
        partitions: int = 2,
        keep: frozenset[int] | None = None,
        story: Callable[[str], object] | None = None,
    ) -> None:
        self.seed = seed
        self.folder = folder
        self.removal = removal
        self.limits = limits
        self.partitions = partitions
        self.loop = SimulationLoop(seed, order=order)
        self.random = Random(f"{seed}/scenario")
        self.clock = SimulatedClock()
        self.engine = MemoryTransport(observe=self._appended)
        self._story = story
        self.disturbances = Disturbances(keep, self.tell)
        self.network = Network(
            Random(f"{seed}/network"),
            faults,
            outside=self.loop.outside_context,
            happens=self.disturbances.happens,
        )
        self.refuses: Refuses = _takes_all
        self._disk_random = Random(f"{seed}/disk")
        self.disk = Disk(folder, self._sync_seconds, self._refused_sync)
        self.failing_syncs = 0.0
        """The chance that a sync fails."""
        self.nodes: dict[str, Node] = {}
        self.power: PowerDisk | None = None
        self.databases: dict[str, Database] = {}
        self.settings: dict[str, object] = {}
        """What services find in their settings."""
        self.violations: list[str] = []
        self.healed = False
        """No faults any more."""
        self.kills = 0
        """How many processes were killed."""
        self.log: list[tuple[str, Record]] = []
        """Everything that the log took: (topic, record)."""

    # -- what scenarios build with ------------------------------------------------------------------------------------

    def node(self, name: str, *services: Service) -> Node:
        """A process of these services; not started yet."""
        self.nodes[name] = Node(self, name, services)
        return self.nodes[name]

    def share(self, *services: str) -> None:
        """Keep the stores of these services on a server, so that several nodes may run them."""
        for service in services:
            self.databases[service] = Database(
                self.folder / f"{service}-server.db",
                random=self._disk_random,
                delay=self.network.delay,
                lose=lambda: self.network.drawn(
                    self.network.faults.lost_statement, "a connection to a database breaks"
                ),
                outside=self.loop.outside_context,
            )

    def running(self, service: str) -> list[Node]:
        """The nodes that run a service, up or down."""
        return [node for node in self.nodes.values() if any(s.name == service for s in node.services)]

    def open_store(self, service: str, instrumentation: Instrumentation) -> Store:
        """A service's store."""
        if service in self.databases:
            return SharedStore(self.databases[service], clock=self.clock)
        return SimulatedSqliteStore(
            service,
            self.disk,
            clock=self.clock,
            instrumentation=instrumentation,
            synchronous=self.removal.synchronous,
        )

    def powered(self) -> PowerDisk:
        """Keep the files of all stores on a disk that a failing power leaves as it was synced."""
        self.power = PowerDisk(f"millstream-simulated-{self.folder.name}", self._power_fails)
        self.disk.vfs = self.power.name
        return self.power

    def _power_fails(self) -> None:
        """In the middle of a write: nobody takes another step; what is left of this one reaches no disk."""
        self.tell("the power fails")
        for node in self.nodes.values():
            if node.process is not None:
                node.process.pause()
        self.loop.call_soon(self._power_returns, context=self.loop.outside_context)

    def _power_returns(self) -> None:
        for node in self.nodes.values():
            node.kill()
        if self.power is not None:
            self.power.restore(self._disk_random)

    async def rows(self, service: str, sql: str) -> list[Row]:
        """Committed rows of a service that runs."""
        for node in self.running(service):
            if node.ready:
                return await node.bound[service].store.query(sql)
        raise LookupError(f"no node runs {service}")

    async def sleep(self, shortest: float, longest: float) -> None:
        """Let time pass: a drawn number of seconds."""
        await asyncio.sleep(self.random.uniform(shortest, longest))

    def tell(self, words: str) -> None:
        """A line of the story."""
        if self._story is not None:
            self._story(f"{self.loop.time():10.4f} {words}")

    def violated(self, what: str) -> None:
        """Something happened that must not."""
        self.tell(f"VIOLATION {what}")
        self.violations.append(what)

    # -- phases -------------------------------------------------------------------------------------------------------

    async def heal(self) -> None:
        """Faults end; whatever is down or paused comes back."""
        self.tell("heal")
        self.healed = True
        if self.power is not None:
            self.power.fail_after(-1 - self.power.operations)
        self.network.calm()
        self.failing_syncs = 0.0
        for node in self.nodes.values():
            if node.process is not None and node.alive:
                node.process.skew_us = 0
                node.process.resume()

    async def settle(self, tend: Callable[[], Awaitable[bool]]) -> bool:
        """After the heal: wait until everything is at rest, restarting what ends. `tend`: what operators do meanwhile; says
        whether they did anything. False, and a violation, if it never comes to rest."""
        lives = {node.name: node.lives for node in self.nodes.values()}
        deadline, rested, found = self.loop.time() + SETTLE_SECONDS, 0, ["nothing was looked at"]
        while rested < 2:
            if self.loop.time() > deadline:
                self.violated(f"does not settle: {'; '.join(found)}")
                return False
            await asyncio.sleep(LOOK_SECONDS)
            for node in self.nodes.values():
                node.start()
                if node.lives > lives[node.name] + MOST_LIVES:
                    self.violated(f"{node.name} ends again and again")
                    return False
            if not all(node.ready for node in self.nodes.values()):
                found = [f"{node.name} does not start" for node in self.nodes.values() if not node.ready]
                rested = 0
                continue
            found = await under_way(self.nodes.values(), self.engine)
            rested = 0 if found or await tend() else rested + 1
        return True

    # -- engines ------------------------------------------------------------------------------------------------------

    def _appended(self, topic: str, records: Sequence[Record]) -> None:
        for record in records:
            self.loop.note(zlib.crc32(record.value))
            self.log.append((topic, record))
            if self._story is not None:
                self.tell(f"log {topic} takes key={record.key}: {record.value[-120:].decode(errors='replace')}")

    def _sync_seconds(self) -> float:
        return self._disk_random.uniform(0.0002, 0.1 if self._disk_random.random() < 0.02 else 0.003)

    def _refused_sync(self) -> None:
        if self.failing_syncs and (
            self._disk_random.random() < self.failing_syncs and self.disturbances.happens("a sync fails")
        ):
            self.network.injected += 1
            raise OSError("a simulated disk refuses to sync")
