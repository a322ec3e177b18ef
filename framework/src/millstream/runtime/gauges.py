"""Gauges of what waits: read from the stores every few seconds, beside the hot path, in a thread of the store's own."""

from __future__ import annotations

from collections.abc import Sequence

from ..clock import Clock
from ..errors import StoreUnavailable, TransportUnavailable
from ..ports.instrumentation import Instrumentation, Labels
from ..ports.transport import Transport
from ..ports.wake import Wake
from .runtime import Bound

__all__ = ["GaugeSampler"]

INTERVAL = 5.0

_LANES = """
SELECT s.name, COUNT(*) FILTER (WHERE l.state IN (0, 4)), COUNT(*) FILTER (WHERE l.state = 1) FROM millstream_lanes l
JOIN millstream_subscriptions s ON s.id = l.subscription GROUP BY s.name
"""
_PARKED = """
SELECT s.name, COUNT(*) FROM millstream_parked p JOIN millstream_subscriptions s ON s.id = p.subscription GROUP BY s.name
"""
_DEAD = """
SELECT s.name, COUNT(*) FROM millstream_dead_letters d
JOIN millstream_subscriptions s ON s.id = d.subscription GROUP BY s.name
"""
_POSITIONS = """
SELECT s.name, s.topic, c.partition, c.position FROM millstream_claims c
JOIN millstream_subscriptions s ON s.id = c.subscription
"""
_OUTBOX = "SELECT COUNT(*) FROM millstream_outbox"
_HELD_KEYS = "SELECT COUNT(*) FROM millstream_held_keys"
_TIMERS = "SELECT COUNT(*) FROM millstream_timers WHERE due <= millstream_now()"
_CLAIMS = "SELECT COUNT(*) FROM millstream_claims WHERE owner IS NOT NULL"
# When the oldest waiting row was written stands inside its message; its place in time is what the id's digits say.
_OLDEST = "SELECT value FROM millstream_outbox ORDER BY id LIMIT 1"


class GaugeSampler:
    """Samples all services of a runtime until stopped."""

    def __init__(
        self, bound: Sequence[Bound], transport: Transport, clock: Clock, instrumentation: Instrumentation
    ) -> None:
        self._bound = bound
        self._transport = transport
        self._clock = clock
        self._instrumentation = instrumentation
        self._values: dict[tuple[str, Labels], float] = {}
        self._wake = Wake(clock)
        self._stopping = False

    async def run(self) -> None:
        """Sample at an interval."""
        while not self._stopping:
            for bound in self._bound:
                try:
                    await self._sample(bound)
                except (StoreUnavailable, TransportUnavailable) as error:
                    self._instrumentation.log("warning", "gauges_stale", service=bound.service.name, error=str(error))
            await self._wake.wait(INTERVAL)

    def stop(self) -> None:
        """End after the sample at hand."""
        self._stopping = True
        self._wake.set()

    async def _sample(self, bound: Bound) -> None:
        scan, name = bound.store.scan, bound.service.name
        service: Labels = (("service", name),)
        for metric, sql in (
            ("millstream_outbox_rows", _OUTBOX),
            ("millstream_held_keys", _HELD_KEYS),
            ("millstream_timers_due", _TIMERS),
            ("millstream_claims_held", _CLAIMS),
        ):
            self._set(metric, service, (await scan(sql))[0][0])
        self._set("millstream_outbox_oldest_age_seconds", service, await self._oldest(bound))
        subscriptions = {c.name: 0.0 for c in bound.service.consumes}
        waiting, held = dict(subscriptions), dict(subscriptions)
        for subscription, waits, holds in await scan(_LANES):
            waiting[subscription], held[subscription] = waits, holds
        parked = {**subscriptions, **{row[0]: row[1] for row in await scan(_PARKED)}}
        dead = {**subscriptions, **{row[0]: row[1] for row in await scan(_DEAD)}}
        lag = dict(subscriptions)
        for subscription, topic, partition, position in await scan(_POSITIONS):
            bounds = await self._transport.bounds(topic, partition)
            lag[subscription] = lag.get(subscription, 0) + bounds.lag(position)
        for metric, values in (
            ("millstream_lanes_waiting", waiting),
            ("millstream_lanes_held", held),
            ("millstream_parked_messages", parked),
            ("millstream_dead_letters_waiting", dead),
            ("millstream_lag_messages", lag),
        ):
            for subscription, value in values.items():
                self._set(metric, (*service, ("subscription", subscription)), value)

    async def _oldest(self, bound: Bound) -> float:
        from ..message import decode_message, parse_time  # only where rows wait

        rows = await bound.store.scan(_OLDEST)
        if not rows:
            return 0.0
        return max(0.0, (self._clock.now_us() - parse_time(decode_message(rows[0][0]).time)) / 1e6)

    def _set(self, metric: str, labels: Labels, value: float) -> None:
        place = (metric, labels)
        if place not in self._values:
            self._instrumentation.gauge(metric, labels, lambda: self._values[place])
        self._values[place] = value
