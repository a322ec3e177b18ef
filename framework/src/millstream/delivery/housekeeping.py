"""Forgetting: inbox rows that cannot come back as new (rule C8), and stored replies past their retention.

A walk goes through the inbox in key order in small transactions with pauses between them, so that the work of the
service hardly waits: a step costs the writer a millisecond or two, and at most one step runs at a time. Between two
walks the housekeeper rests. What a replay left behind (the inbox of a former generation) goes the same way.
"""

from __future__ import annotations

import msgspec

from ..clock import Clock
from ..errors import StoreUnavailable
from ..ports.instrumentation import Instrumentation
from ..ports.store import Session, Store
from ..ports.wake import Wake
from . import idempotency, inbox

__all__ = ["Housekeeper", "Retention"]


class Retention(msgspec.Struct, frozen=True):
    """How long to remember, and how gently to forget.

    inbox_seconds: the same as `Limits.inbox_retention_seconds`. reply_seconds: a client's repeat after that is new.
    step_rows: looked at or deleted in one transaction. pause_seconds: between two of them. rest_seconds: between walks.
    """

    inbox_seconds: float = 7 * 86_400.0
    reply_seconds: float = 86_400.0
    step_rows: int = 2_000
    pause_seconds: float = 0.1
    rest_seconds: float = 60.0


class Housekeeper:
    """Purges one store. Run by the holder of relay shard 0; two at once are safe, only wasteful."""

    def __init__(
        self, store: Store, *, clock: Clock, instrumentation: Instrumentation, retention: Retention | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._instrumentation = instrumentation
        self._retention = retention or Retention()
        self._wake = Wake(clock)
        self._stopping = False

    async def run(self) -> None:
        """Walk, rest, and walk again until stopped."""
        while not self._stopping:
            gone = 0
            try:
                for walk in (self._purge_inbox, self._purge_former, self._purge_replies):
                    gone += await walk()
            except StoreUnavailable as error:
                self._instrumentation.log("warning", "housekeeping_waits", error=str(error))
            if gone:
                self._instrumentation.log("debug", "housekeeping_walk", rows=gone)
            if not self._stopping:
                await self._wake.wait(self._retention.rest_seconds)

    def stop(self) -> None:
        """End after the transaction at hand."""
        self._stopping = True
        self._wake.set()

    async def _purge_inbox(self) -> int:
        retention_us, rows = round(self._retention.inbox_seconds * 1e6), self._retention.step_rows
        after: tuple[int, str, str] | None = (0, "", "")
        total = 0
        while after is not None and not self._stopping:
            after, gone = await self._store.transact(
                lambda session, place=after: inbox.purge(session, place, retention_us, rows)
            )
            total += gone
            if after is not None:
                await self._pause()
        return total

    async def _purge_former(self) -> int:
        """Inbox rows of subscription ids that a replay replaced."""
        total = 0
        while not self._stopping:
            gone = await self._store.transact(self._former_step)
            if gone is None:
                break
            total += gone
            await self._pause()
        return total

    async def _former_step(self, session: Session) -> int | None:
        # Whoever accepted a message left a watermark: the small table says whose rows there can be.
        row = await session.fetch_one(
            "SELECT subscription FROM millstream_watermarks "
            "WHERE subscription NOT IN (SELECT id FROM millstream_subscriptions) LIMIT 1"
        )
        if row is None:
            return None
        gone = await session.execute(
            "DELETE FROM millstream_inbox WHERE (subscription, source, id) IN "
            "(SELECT subscription, source, id FROM millstream_inbox WHERE subscription = ? LIMIT ?)",
            row[0],
            self._retention.step_rows,
        )
        if gone == 0:
            await session.execute("DELETE FROM millstream_watermarks WHERE subscription = ?", row[0])
        return gone

    async def _purge_replies(self) -> int:
        total = 0
        while not self._stopping:
            before_us = self._clock.now_us() - round(self._retention.reply_seconds * 1e6)
            gone = await self._store.transact(
                lambda session, us=before_us: idempotency.purge(session, us, self._retention.step_rows)
            )
            total += gone
            if gone < self._retention.step_rows:
                break
            await self._pause()
        return total

    async def _pause(self) -> None:
        await self._wake.wait(self._retention.pause_seconds)
