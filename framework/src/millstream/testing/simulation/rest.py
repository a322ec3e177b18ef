"""Whether anything is still under way."""

from __future__ import annotations

from collections.abc import Iterable

from ...transports.memory import MemoryTransport
from .node import Node

__all__ = ["under_way"]

_POSITIONS = (
    "SELECT s.name, s.topic, c.partition, c.position FROM millstream_claims c "
    "JOIN millstream_subscriptions s ON s.id = c.subscription"
)
# A held lane rests, and what waits behind its dead letter too.
_COUNTS = {
    "outbox rows": "SELECT COUNT(*) FROM millstream_outbox o WHERE NOT EXISTS (SELECT 1 FROM millstream_held_keys h "
    "WHERE h.topic = o.topic AND (h.key = o.key OR h.row_id = o.id))",
    "timers": "SELECT COUNT(*) FROM millstream_timers",
    "lanes": "SELECT COUNT(*) FROM millstream_lanes WHERE state <> 1",
}


async def under_way(nodes: Iterable[Node], engine: MemoryTransport) -> list[str]:
    """What is not at rest, in words. Positions first: see `Harness._in_flight`."""
    found: list[str] = []
    for node in nodes:
        for name, bound in node.bound.items():
            for subscription, topic, partition, position in await bound.store.query(_POSITIONS):
                end = (await engine.bounds(topic, partition)).latest
                if position < end:
                    found.append(f"{name}/{subscription}: partition {partition} stands at {position} of {end}")
            for what, sql in _COUNTS.items():
                count = (await bound.store.query(sql))[0][0]
                if count:
                    found.append(f"{name}: {count} {what}")
    return found
