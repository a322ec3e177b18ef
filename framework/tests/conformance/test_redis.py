"""The log on Redis Streams keeps the transport port's promises."""

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
from millstream.testing.engines.redis import RedisServer
from millstream.transports.redis import RedisTransport


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


class TestRedisTransport(TransportConformance):
    @pytest.fixture
    def make(self, redis: RedisServer, tmp_path: Path) -> Make:
        context = AdapterContext(tmp_path, SystemClock(), Silent(), keep_seconds=0)
        return lambda: open_transport(redis.url, context)

    async def retain(self, log: Transport) -> None:
        assert isinstance(log, RedisTransport)
        await log.retain()
