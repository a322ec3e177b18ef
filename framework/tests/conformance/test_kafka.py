"""The Kafka transport keeps the transport port's promises, on a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream.testing.conformance.transport import TransportConformance
from millstream.testing.conformance.transport_case import Make
from millstream.testing.engines.kafka import KafkaServer
from millstream.transports.kafka import Connection, KafkaOptions, KafkaTransport


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with KafkaServer(Path(tmp_path_factory.mktemp("kafka"))) as server:
        yield server


class TestKafkaTransport(TransportConformance):
    @pytest.fixture
    def make(self, kafka: KafkaServer) -> Make:
        # The suite opens hundreds of readers.
        return lambda: KafkaTransport(Connection(kafka.bootstrap), KafkaOptions(fetch_wait_ms=10))
