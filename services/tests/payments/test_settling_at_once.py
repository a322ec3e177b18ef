"""The same news of a charge arrives twice at the same moment, on a store that runs transactions beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from millstream import Tx
from millstream.delivery.outbox import Origin, Outbox
from millstream.ids import Ids
from millstream.ports.store import Session
from millstream.postgresql.database import database_of
from millstream.runtime.migrations import migrate
from millstream.stores.postgresql import PostgresqlStore
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream_services.payments.charging import apply, begin
from millstream_services.payments.domain import Answer
from millstream_services.payments.provider import Charged
from millstream_services.payments.service import payments
from millstream_services.payments.settings import PaymentSettings
from millstream_services.payments.store import NewPayment, find_payment, insert_payment

SETTINGS = PaymentSettings()
PAYMENTS = 40


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql"), {"fsync": "off"}) as started:
        yield started


async def test_two_successes_at_once_capture_a_payment_once_and_open_no_case(server: PostgresqlServer) -> None:
    async with PostgresqlStore(database_of(server.url, "payments")) as store:
        await migrate(store, payments.name, payments.migrations)

        async def run(work: Callable[[Tx], Awaitable[Any]]) -> Any:
            async def unit(session: Session) -> Any:
                return await work(Tx(session, Outbox(Origin("test", Ids())), 1_000_000))

            return await store.transact(unit)

        async def start(payment_id: str) -> None:
            async def work(tx: Tx) -> None:
                new = NewPayment(payment_id, f"o-{payment_id}", "ann", "sim_late", 100, "USD")
                assert await insert_payment(tx, new)
                await begin(tx, new, SETTINGS)

            await run(work)

        async def succeed(payment_id: str) -> list[Any]:
            async def work(tx: Tx) -> list[Any]:
                payment = await find_payment(tx, payment_id)
                assert payment is not None
                return await apply(tx, payment, Charged(Answer.SUCCEEDED, "ch_1"), SETTINGS, source="a test")

            return await run(work)

        published = 0
        for n in range(PAYMENTS):
            await start(f"p{n}")
            for events in await asyncio.gather(succeed(f"p{n}"), succeed(f"p{n}")):
                published += len(events)
        assert published == PAYMENTS
        assert await store.query("SELECT kind, detail FROM cases") == []
        assert await store.query("SELECT state, captured FROM payments") == [("SUCCESS", 100)] * PAYMENTS
