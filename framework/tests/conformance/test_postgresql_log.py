"""The log in PostgreSQL keeps the transport port's promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream.clock import SystemClock
from millstream.ports.instrumentation import Silent
from millstream.ports.transport import Transport
from millstream.runtime.adapters import AdapterContext, open_transport
from millstream.testing.conformance.transport import TransportConformance
from millstream.testing.conformance.transport_case import Make
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.transports.postgresql import PostgresqlLog


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


class TestPostgresqlLog(TransportConformance):
    @pytest.fixture
    def make(self, server: PostgresqlServer, tmp_path: Path) -> Make:
        context = AdapterContext(tmp_path, SystemClock(), Silent(), keep_seconds=0)
        return lambda: open_transport(server.url, context)

    async def retain(self, log: Transport) -> None:
        assert isinstance(log, PostgresqlLog)
        await log.retain()
