"""A claim that could not be given back, because the store was away at that moment, must not stay with a worker that lives on:
its signs of life would keep it, and nobody would run it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from bank import till
from life import Diary
from millstream.delivery.consumption import Limits
from millstream.errors import StoreUnavailable
from millstream.runtime.runtime import Composition, Runtime
from millstream.stores.sqlite import SqliteStore
from millstream.testing.failpoints import Failpoints
from millstream.testing.removals.through import StoreThrough, Work
from millstream.transports.log import LogTransport
from test_zombies import moved

PATIENCE = 20.0


class SometimesAway(StoreThrough):
    """A store that nobody reaches while it is away."""

    away = False

    async def transact(self, work: Work) -> Any:
        self._reach()
        return await super().transact(work)

    async def query(self, sql: str, *params: Any) -> Any:
        self._reach()
        return await self.inner.query(sql, *params)

    def _reach(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


async def test_a_claim_that_could_not_be_released_is_worked_on_again(tmp_path: Path) -> None:
    stores: list[SometimesAway] = []

    def open_store(name: str) -> Any:
        stores.append(SometimesAway(SqliteStore(tmp_path / f"{name}.db")))
        return stores[-1]

    log = LogTransport(tmp_path / "log.db")
    composition = Composition(
        open_store=open_store,
        transport=log,
        data=tmp_path,
        limits=Limits(lease_seconds=0.3),
        partitions=1,
        settings=lambda _: {"points": Failpoints()},
        instrumentation=Diary(tmp_path),
    )
    said = tmp_path / "log.txt"
    until = time.monotonic() + PATIENCE
    async with Runtime([till], composition):
        (store,) = stores
        number = 0
        store.away = True
        # A parked call that becomes due asks the store, finds it away, and its claim fails and cannot be released.
        while not (said.exists() and "claim_not_released" in said.read_text()):
            assert time.monotonic() < until, "no claim failed while the store was away"
            store.away = not store.away
            number += 1
            await log.publish("moves", 0, [moved(number)])
            await asyncio.sleep(0.01)
        store.away = False
        await log.publish("moves", 0, [moved(number + 1)])
        while (await store.query("SELECT COUNT(*) FROM told"))[0][0] < number + 1:
            assert time.monotonic() < until, said.read_text()
            await asyncio.sleep(0.01)
