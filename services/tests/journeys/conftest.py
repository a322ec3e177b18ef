"""The payments path on the real kernel, and what tests of it ask for again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from millstream.ports.instrumentation import Silent
from millstream.testing.clock import ManualClock
from millstream.testing.harness import Harness
from millstream_services.payments.provider import PaymentProvider
from millstream_services.payments.simulated.courier import Courier
from millstream_services.payments.simulated.provider import SimulatedProvider
from millstream_services.payments_path import all as services

from .split_harness import SplitHarness

OPERATOR = ("operator",)
STEP = 0.1
"""Seconds by which time passes while a test waits for something."""


class Shop:
    """A harness with the words of this system."""

    def __init__(self, ms: Harness) -> None:
        self.ms = ms
        self.sent: list[tuple[bytes, str]] = []
        self._keys = 0

    @property
    def provider(self) -> SimulatedProvider:
        found: Any = self.ms.runtime.bound["payments"].resources[PaymentProvider]
        assert isinstance(found, SimulatedProvider)
        return found

    async def until(self, condition: Callable[[], Awaitable[bool]], limit: float = 60.0) -> None:
        """Let time pass in small steps until something holds; at most `limit` seconds of the harness's clock."""
        for _ in range(round(limit / STEP)):
            await asyncio.sleep(0.002)
            if await condition():
                return
            await self.ms.clock.advance(STEP)
        raise AssertionError(f"it did not come true within {limit} s")

    async def until_state(self, order_id: str, state: str, limit: float = 60.0) -> None:
        """Let time pass, and the provider tell what it has to tell, until an order is in a state."""

        async def reached() -> bool:
            await self.deliver()
            return (await self.order(order_id))["state"] == state

        await self.until(reached, limit)

    def key(self) -> str:
        self._keys += 1
        return f"key-{self._keys}"

    async def place(self, method: str | None = "sim_ok", total: int = 350, **options: Any) -> str:
        """Place an order; its id."""
        options.setdefault("key", self.key())
        return (await self.ms.post("/orders", new_order(method, total), **options))["id"]

    async def order(self, order_id: str) -> Any:
        return await self.ms.get(f"/orders/{order_id}")

    async def payment_of(self, order_id: str) -> Any:
        return await self.ms.get(f"/payments/{(await self.order(order_id))['payment']['id']}")

    async def told(self, order_id: str) -> list[str]:
        return [n["kind"] for n in await self.ms.get(f"/notifications?order={order_id}")]

    async def book(self) -> dict[str, Any]:
        """The provider's book by order."""
        rows = await self.provider.book_store.store.query(
            "SELECT reference, key, status, charges, calls, refunded FROM charges ORDER BY seq"
        )
        return {
            row[0]: dict(zip(("key", "status", "charges", "calls", "refunded"), row[1:], strict=True)) for row in rows
        }

    async def operator(self, path: str) -> Any:
        return await self.ms.get(path, subject="op", roles=OPERATOR)

    async def balance(self) -> Any:
        return await self.operator("/ledger/trial-balance")

    async def deliver(self) -> None:
        """Let the provider send the webhooks that are due, as the process's courier does over HTTP."""
        courier = Courier(self.provider, self._post, self.ms.clock, Silent())
        while await courier.deliver_due() == 0.0:
            pass

    async def _post(self, body: bytes, signature: str) -> int:
        self.sent.append((body, signature))
        answer = await self.ms.call("POST", "/webhooks/provider", body, headers={"webhook-signature": signature})
        return answer.status

    async def clean(self) -> None:
        """Nothing is stuck anywhere: no dead letter, no open case, books that balance."""
        for service in ("orders", "payments", "notifications"):
            assert await self.ms.dead_letters(service) == []
        assert await self.operator("/payments/cases") == []
        for sums in (await self.balance()).values():
            assert sums["debit"] == sums["credit"]


def new_order(method: str | None = "sim_ok", total: int = 350) -> dict[str, Any]:
    order: dict[str, Any] = {
        "customer": "2375",
        "currency": "USD",
        "lines": [{"product": "1081177", "quantity": 1, "amount": total}],
        "total": total,
    }
    return order if method is None else {**order, "payment": {"method": method}}


@pytest.fixture(params=[Harness, SplitHarness], ids=["single", "split"])
def shape(request: pytest.FixtureRequest) -> type[Harness]:
    """All services in one runtime, or each in its own with gRPC between them: the same journeys either way."""
    return request.param


@pytest.fixture
async def shop(shape: type[Harness], tmp_path: Path) -> AsyncIterator[Shop]:
    async with shape(*services, data=tmp_path, subject="ann") as ms:
        yield Shop(ms)


@pytest.fixture
def start(shape: type[Harness], tmp_path: Path) -> Callable[..., Harness]:
    """Makes a harness on this test's folder: a second one is a restart, with the same log and a later clock."""
    made: list[Harness] = []

    def make(**options: Any) -> Harness:
        options.setdefault("subject", "ann")
        harness = shape(*services, data=tmp_path, **options)
        if made:
            harness.transport = made[-1].transport
            harness.clock = ManualClock(made[-1].clock.now_us())
        made.append(harness)
        return harness

    return make
