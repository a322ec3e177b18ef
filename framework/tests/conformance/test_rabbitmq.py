"""The log on RabbitMQ stream queues keeps the transport port's promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream.clock import SystemClock
from millstream.ports.instrumentation import Silent
from millstream.runtime.adapters import AdapterContext, open_transport
from millstream.testing.conformance.transport import TransportConformance
from millstream.testing.conformance.transport_case import Make
from millstream.testing.engines.rabbitmq import RabbitmqServer


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitmqServer]:
    with RabbitmqServer(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


class TestRabbitmqTransport(TransportConformance):
    @pytest.fixture
    def make(self, rabbitmq: RabbitmqServer, tmp_path: Path) -> Make:
        context = AdapterContext(tmp_path, SystemClock(), Silent())
        return lambda: open_transport(rabbitmq.url, context)
