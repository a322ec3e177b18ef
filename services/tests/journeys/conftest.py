"""The payments path on the real kernel, and what tests of it ask for again and again.

Every journey runs in one runtime and split, on SQLite and a log in memory. Those marked `everywhere` run on real engines,
too: each log with each store and in each shape, pair by pair. With `MILLSTREAM_PROOF=1`, as `make proof` says, all of them
run on every combination.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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

from .engines import DEFAULTS, EVERY_PAIR, PAIRWISE, Engines, OnEngines, System, harness

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
            if isinstance(self.ms, OnEngines):
                await self.ms.at_rest()
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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "everywhere: a journey that runs on real engines, too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "system" in metafunc.fixturenames:
        on_engines: tuple[System, ...] = ()
        if os.environ.get("MILLSTREAM_PROOF"):
            on_engines = EVERY_PAIR
        elif metafunc.definition.get_closest_marker("everywhere") is not None:
            on_engines = PAIRWISE
        metafunc.parametrize("system", [*DEFAULTS, *on_engines], ids=str)


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Real servers, started when a test first asks for them."""
    made = Engines(tmp_path_factory.mktemp("engines"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def shop(system: System, engines: Engines, tmp_path: Path) -> AsyncIterator[Shop]:
    async with harness(system, engines, engines.name(), *services, data=tmp_path, subject="ann") as ms:
        yield Shop(ms)


@pytest.fixture
def start(system: System, engines: Engines, tmp_path: Path) -> Callable[..., Harness]:
    """Makes a harness on this test's data: a second one is a restart, with the same log and a later clock."""
    made: list[Harness] = []
    place = engines.name()

    def make(**options: Any) -> Harness:
        options.setdefault("subject", "ann")
        again = harness(system, engines, place, *services, data=tmp_path, **options)
        if made:
            if not isinstance(again, OnEngines):  # a log in memory is the object itself
                again.transport = made[-1].transport
            again.clock = ManualClock(made[-1].clock.now_us())
        made.append(again)
        return again

    return make
