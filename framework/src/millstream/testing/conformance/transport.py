"""The transport suite: derive from `TransportConformance` and override its fixture `make`."""

from __future__ import annotations

from .transport_closing import Closing
from .transport_publishing import Publishing
from .transport_reading import Reading
from .transport_retention import Retention
from .transport_topics import Topics

__all__ = ["TransportConformance"]


class TransportConformance(Topics, Publishing, Reading, Retention, Closing):
    """Every promise of `ports/transport.py`. See `TransportCase` for what to override."""
