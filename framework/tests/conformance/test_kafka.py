"""The Kafka transport keeps the transport port's promises, on a real broker."""

from __future__ import annotations

import pytest
from millstream.testing.conformance.transport import TransportConformance
from millstream.testing.conformance.transport_case import Make
from millstream.testing.engines.kafka import KafkaServer
from millstream.testing.engines.shared import shared_engine
from millstream.transports.kafka import Connection, KafkaOptions, KafkaTransport


class TestKafkaTransport(TransportConformance):
    @pytest.fixture
    def make(self, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Make:
        broker = shared_engine(pytestconfig, KafkaServer, lambda: KafkaServer(tmp_path_factory.mktemp("kafka")))
        # The suite opens hundreds of readers.
        return lambda: KafkaTransport(Connection(broker.bootstrap), KafkaOptions(fetch_wait_ms=10))
