"""The memory transport keeps the transport port's promises."""

from __future__ import annotations

import pytest
from millstream.testing.conformance.transport import TransportConformance
from millstream.testing.conformance.transport_case import Make
from millstream.transports.memory import MemoryTransport


class TestMemoryTransport(TransportConformance):
    @pytest.fixture
    def make(self) -> Make:
        return lambda: MemoryTransport(keep_records=0)
