"""The simulated engines keep the ports' promises: they pass the same suites as the real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from millstream.clock import SystemClock
from millstream.testing.conformance.store import StoreConformance
from millstream.testing.conformance.store_case import MakeStore
from millstream.testing.conformance.transport import TransportConformance
from millstream.testing.conformance.transport_case import Make
from millstream.testing.simulation.database import Database
from millstream.testing.simulation.log import SimulatedTransport
from millstream.testing.simulation.network import Faults, Network
from millstream.testing.simulation.shared_store import SharedStore
from millstream.testing.simulation.sqlite import Disk, SimulatedSqliteStore
from millstream.transports.memory import MemoryTransport


class TestSimulatedTransport(TransportConformance):
    @pytest.fixture
    async def make(self) -> Make:
        engine, network = MemoryTransport(keep_records=0), Network(Random(1), Faults())
        await engine.__aenter__()
        return lambda: SimulatedTransport(engine, network)


class TestSimulatedSqliteStore(StoreConformance):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakeStore:
        chance = Random(1)
        disk = Disk(tmp_path, lambda: chance.random() / 1000)
        return lambda: SimulatedSqliteStore("service", disk, clock=SystemClock())


class TestSharedStore(StoreConformance):
    @pytest.fixture
    async def make(self, tmp_path: Path) -> AsyncIterator[MakeStore]:
        chance = Random(1)
        database = Database(
            tmp_path / "server.db", random=chance, delay=lambda: chance.random() / 5000, clock=SystemClock()
        )
        yield lambda: SharedStore(database, clock=SystemClock())
        database.close()
