"""What the payments service's handlers ask for by type, made from its settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from millstream.ids import Ids
from millstream.service.context import ServiceContext

from .provider import PaymentProvider
from .settings import PaymentSettings, read_settings
from .simulated.book import Book
from .simulated.courier import Courier
from .simulated.provider import SimulatedProvider

__all__ = ["make_ids", "make_provider", "make_settings"]

WEBHOOK_PATH = "/webhooks/provider"
DELIVERY_SECONDS = 10.0


async def make_ids(context: ServiceContext) -> AsyncIterator[Ids]:
    """Ids of payments and refunds: they sort by time."""
    yield Ids(context.entropy, lambda: context.clock.now_us() // 1000)


async def make_settings(context: ServiceContext) -> AsyncIterator[PaymentSettings]:
    """The service's settings."""
    yield read_settings(context.settings)


async def make_provider(context: ServiceContext, settings: PaymentSettings) -> AsyncIterator[PaymentProvider]:
    """The simulated provider with its book and, where this process serves HTTP, its courier."""
    async with context.open_store("provider") as store:
        book = Book(store)
        own = await book.prepare(context.entropy.token(32).hex().encode())
        provider = SimulatedProvider(
            book, context.clock, settings.secrets or (own,), settings.answer_timeout, settings.settle_after
        )
        if not context.http_url:
            yield provider
            return
        timeout = aiohttp.ClientTimeout(total=DELIVERY_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            courier = Courier(
                provider, _post_with(session, context.http_url + WEBHOOK_PATH), context.clock, context.instrumentation
            )
            running = group.create_task(courier.run())
            try:
                yield provider
            finally:
                running.cancel()


def _post_with(session: aiohttp.ClientSession, url: str):
    async def post(body: bytes, signature: str) -> int:
        headers = {"content-type": "application/json", "webhook-signature": signature}
        try:
            async with session.post(url, data=body, headers=headers) as reply:
                return reply.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    return post
