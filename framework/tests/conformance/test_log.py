"""The embedded log keeps the transport port's promises."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream.ports.transport import Transport
from millstream.testing.conformance.transport import TransportConformance
from millstream.testing.conformance.transport_case import Make
from millstream.transports.log import LogOptions, LogTransport


class TestLogTransport(TransportConformance):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return lambda: LogTransport(tmp_path / "log.db", options=LogOptions(keep=0))

    async def retain(self, log: Transport) -> None:
        assert isinstance(log, LogTransport)
        await log.retain()
