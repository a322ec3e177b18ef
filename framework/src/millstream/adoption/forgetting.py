"""What the inbox of applications may forget, run by the relay beside its work (rule C8).

Per subscription and source a bound is written first, the newest accepted time minus the retention, and committed; then rows
below it go, in small steps. So a message that is older than the bound and not in the inbox is known to be undecidable
(`OlderThanInbox`), at every moment in between. The newest time is capped by the store's clock, so that a producer whose
clock is ahead makes nobody forget.
"""

from __future__ import annotations

from typing import Any, final

from ..clock import Clock
from ..errors import StoreUnavailable
from ..ports.instrumentation import Instrumentation
from ..ports.store import Session, Store
from ..ports.wake import Wake
from .inbox import BOUND_ID

__all__ = ["InboxPurge"]

STEP_ROWS = 1_000
REST_SECONDS = 600.0

# Subscriptions of applications have negative numbers; a service's own are purged by its worker.
_NEWEST = """
SELECT subscription, source, MAX(time), millstream_now() FROM millstream_inbox
WHERE subscription < 0 AND id <> '' GROUP BY subscription, source
"""
_BOUND = """
INSERT INTO millstream_inbox (subscription, source, id, partition, time) VALUES (?, ?, ?, 0, ?)
ON CONFLICT (subscription, source, id) DO UPDATE SET time = excluded.time WHERE millstream_inbox.time < excluded.time
"""
_STEP = """
SELECT id, time FROM millstream_inbox WHERE subscription = ? AND source = ? AND id > ? ORDER BY id LIMIT ?
"""


@final
class InboxPurge:
    """Forgets in one store until stopped."""

    def __init__(self, store: Store, *, clock: Clock, instrumentation: Instrumentation, retention: float) -> None:
        self._store = store
        self._instrumentation = instrumentation
        self._retention_us = round(retention * 1e6)
        self._wake = Wake(clock)
        self._stopping = False

    async def run(self) -> None:
        """Forget, rest, forget again."""
        while not self._stopping:
            try:
                gone = await self.purge()
            except StoreUnavailable as error:
                self._instrumentation.log("warning", "inbox_purge_waits", error=str(error))
            else:
                if gone:
                    self._instrumentation.log("info", "inbox_purged", rows=gone)
            if not self._stopping:
                await self._wake.wait(REST_SECONDS)

    def stop(self) -> None:
        """End after the step at hand."""
        self._stopping = True
        self._wake.set()

    async def purge(self) -> int:
        """One pass; how many rows went."""
        total = 0
        for subscription, source, newest, now in await self._store.scan(_NEWEST):
            bound = min(newest, now) - self._retention_us

            async def raise_bound(
                session: Session, place: tuple[Any, ...] = (subscription, source, BOUND_ID, bound)
            ) -> None:
                await session.execute(_BOUND, *place)

            await self._store.transact(raise_bound)
            total += await self._below(subscription, source, bound)
        return total

    async def _below(self, subscription: int, source: str, bound: int) -> int:
        after, total = BOUND_ID, 0
        while not self._stopping:
            rows = await self._store.query(_STEP, subscription, source, after, STEP_ROWS)
            gone = [(subscription, source, id_) for id_, time_us in rows if time_us < bound]

            async def forget(session: Session, gone: list[tuple[int, str, str]] = gone) -> None:
                await session.execute_many(
                    "DELETE FROM millstream_inbox WHERE subscription = ? AND source = ? AND id = ?", gone
                )

            if gone:
                await self._store.transact(forget)
                total += len(gone)
            if len(rows) < STEP_ROWS:
                break
            after = rows[-1][0]
        return total
