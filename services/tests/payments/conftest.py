"""The payments tables on a store of their own, without a runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from millstream import Tx
from millstream.delivery.outbox import Origin, Outbox
from millstream.ids import Ids
from millstream.ports.store import Session
from millstream.runtime.migrations import migrate
from millstream.stores.sqlite import SqliteStore
from millstream_services.payments.service import payments

Run = Callable[[Callable[[Tx], Awaitable[Any]]], Awaitable[Any]]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "payments.db", synchronous="OFF") as opened:
        await migrate(opened, payments.name, payments.migrations)
        yield opened


@pytest.fixture
def run(store: SqliteStore) -> Run:
    """Runs work in a transaction; what it publishes is dropped."""
    clock = iter(range(1_000_000, 1 << 60, 1_000))

    async def transact(work: Callable[[Tx], Awaitable[Any]]) -> Any:
        async def unit(session: Session) -> Any:
            return await work(Tx(session, Outbox(Origin("test", Ids())), next(clock)))

        return await store.transact(unit)

    return transact
