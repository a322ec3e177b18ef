"""The simulated provider's own process, so to speak: it settles late charges and delivers their webhooks over HTTP.

What is due lies in the book, so a process that was killed delivers after its restart. A delivery counts when the
receiver said 2xx; until then it is tried again, so a receiver sees every event at least once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from millstream.clock import Clock
from millstream.ports.instrumentation import Instrumentation
from millstream.ports.store import Session

from ..signature import sign
from .book import News, confirm, postpone, turn
from .provider import SimulatedProvider

__all__ = ["Courier", "Post"]

Post = Callable[[bytes, str], Awaitable[int]]
"""Sends a body with its signature; returns the HTTP status."""

PARALLEL = 16
IDLE_SECONDS = 0.5
"""How long it waits where nothing is due; a charge that settles later is due later than that."""
RETRY_US = 1_000_000


class Courier:
    """Runs until it is cancelled. Never raises: what goes wrong with a delivery is tried again."""

    def __init__(self, provider: SimulatedProvider, post: Post, clock: Clock, instrumentation: Instrumentation) -> None:
        self._provider = provider
        self._book = provider.book_store
        self._post = post
        self._clock = clock
        self._instrumentation = instrumentation

    async def run(self) -> None:
        """Deliver what is due, wait for what is due next."""
        while True:
            try:
                wait = await self.deliver_due()
            except Exception as error:  # noqa: BLE001 - the simulation of a third party must not take the service along
                self._instrumentation.log("warning", "courier_failed", error=f"{type(error).__name__}: {error}")
                wait = IDLE_SECONDS
            await self._clock.sleep(wait)

    async def deliver_due(self) -> float:
        """Deliver what is due now, side by side but in order for a charge; seconds until it is worth a new look."""
        now_us = self._clock.now_us()
        waiting = await self._book.next_news(PARALLEL * 4)
        due: dict[str, list[News]] = {}
        for news in waiting:
            if news.due <= now_us:
                due.setdefault(news.key, []).append(news)
        gate = asyncio.Semaphore(PARALLEL)
        async with asyncio.TaskGroup() as group:
            for several in due.values():
                group.create_task(self._deliver_in_order(several, gate))
        if due:
            return 0.0
        next_us = waiting[0].due - now_us if waiting else 1 << 40
        return min(IDLE_SECONDS, next_us / 1e6)

    async def _deliver_in_order(self, several: list[News], gate: asyncio.Semaphore) -> None:
        async with gate:
            for news in several:
                await self._deliver(news)

    async def _deliver(self, news: News) -> None:
        if news.status == "succeeded":

            async def settle(session: Session) -> None:
                await turn(session, news.key, ("pending",), "succeeded")

            await self._book.transact(settle)
        row = await self._book.find(news.key)
        sent = row is None or row.status == "cancelled"  # cancelled before it settled: there is nothing to tell
        if row is not None and not sent:
            now_us = self._clock.now_us()
            body = self._provider.webhook(news.event, news.status, row)
            try:
                sent = 200 <= await self._post(body, sign(body, self._provider.secrets[:1], now_us)) < 300
            except OSError as error:
                self._instrumentation.log("debug", "webhook_undelivered", error=str(error))
        later = self._clock.now_us()

        async def note(session: Session) -> None:
            if sent:
                await confirm(session, news.seq, later)
            else:
                await postpone(session, news.seq, later + RETRY_US * (1 + min(news.tries, 9)))

        await self._book.transact(note)
