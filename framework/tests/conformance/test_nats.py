"""NATS JetStream keeps the transport port's promises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from millstream.ports.transport import Transport
from millstream.testing.conformance.transport import TransportConformance
from millstream.testing.conformance.transport_case import Make
from millstream.testing.engines.nats import NatsServer
from millstream.transports.nats import NatsOptions, NatsTransport


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


class TestNatsTransport(TransportConformance):
    @pytest.fixture
    def make(self, nats_server: NatsServer) -> Make:
        options = NatsOptions(keep=0, sync="always")
        return lambda: NatsTransport([("127.0.0.1", nats_server.port)], options=options)

    async def retain(self, log: Transport) -> None:
        assert isinstance(log, NatsTransport)
        await log.retain()
