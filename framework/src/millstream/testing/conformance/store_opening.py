"""Opening, closing, restarting, and a disk that is full: what was confirmed stays, and nothing else does."""

# ruff: noqa: S608 - the name of a table is the test's own

from __future__ import annotations

import asyncio

import pytest

from ...errors import Misconfigured, StoreUnavailable
from ...ports.store import Session, Store, StoreCapabilities
from .capabilities import requires
from .store_case import MakeStore, StoreCase, create, insert, rows_of
from .transport_case import within

__all__ = ["Opening"]


class Opening(StoreCase):
    async def test_capabilities_are_declared(self, store: Store, conformance_declares: object) -> None:
        """The adapter declares what its engine can do."""
        assert callable(conformance_declares)
        conformance_declares(store.capabilities)
        assert isinstance(store.capabilities, StoreCapabilities)
        assert store.capabilities.name
        assert store.capabilities.dialect in ("sqlite", "postgresql")

    async def test_durability_says_what_is_too_weak(self, store: Store) -> None:
        """Durability is read back from the engine, and a weaker promise names its setting."""
        durability = await store.durability()
        assert bool(durability.why_not) == (not (durability.process_crash and durability.power_loss))
        assert store.capabilities.survives_restart or not durability.process_crash

    async def test_a_restart_keeps_everything(self, make: MakeStore, table: str) -> None:
        """Where declared: committed rows outlive the process, and row ids go on from where they were."""
        async with make() as store:
            requires(store.capabilities, "survives_restart")
            await create(store, table)
            for name in ("a", "b", "c"):
                await store.transact(insert(table, name))
            await store.transact(lambda session: session.execute(f"DELETE FROM {table} WHERE name = 'c'"))
        async with make() as store:
            assert await rows_of(store, table) == [("a", 0), ("b", 0)]
            await store.transact(insert(table, "d"))
            assert await store.query(f"SELECT id FROM {table} WHERE name = 'd'") == [(4,)]

    async def test_a_store_for_one_process_refuses_a_second(self, make: MakeStore, table: str) -> None:
        """A store that only one process may hold refuses a second holder, and the first one goes on."""
        async with make() as store:
            requires(store.capabilities, "several_processes", False)
            await create(store, table)
            with pytest.raises(Misconfigured):
                async with make():
                    pass
            await store.transact(insert(table, "a"))
            assert await rows_of(store, table) == [("a", 0)]

    async def test_several_processes_share_a_store(self, make: MakeStore, table: str) -> None:
        """Where declared: two holders see each other's commits and wake each other."""
        async with make() as here:
            requires(here.capabilities, "several_processes")
            await create(here, table)
            async with make() as there:
                signal = there.listen(table)

                async def work(session: Session) -> None:
                    await insert(table, "a")(session)
                    session.notify(table)

                await here.transact(work)
                assert await signal.wait(15.0) is True
                assert await rows_of(there, table) == [("a", 0)]
                signal.close()

    async def test_a_full_disk_undoes_and_lets_go_on(self, store: Store, table: str) -> None:
        """T2: without space a transaction is StoreUnavailable and nothing of it is there; with space all goes on."""
        await store.script(f"CREATE TABLE {table}_large (data TEXT)")

        async def large(session: Session) -> None:
            await insert(table, "beside the large one")(session)
            await session.execute(f"INSERT INTO {table}_large VALUES (?)", "x" * 4_000_000)

        async with self.full_disk(store):
            names = [f"member {number}" for number in range(3)]
            members = [asyncio.get_running_loop().create_task(store.transact(insert(table, name))) for name in names]
            too_large = asyncio.get_running_loop().create_task(store.transact(large))
            await within(asyncio.wait([*members, too_large]))
            assert isinstance(too_large.exception(), StoreUnavailable)
            kept = [name for name, member in zip(names, members, strict=True) if member.exception() is None]
            assert all(isinstance(m.exception(), StoreUnavailable | None) for m in members)
            assert [name for name, _ in await rows_of(store, table)] == kept
        await store.transact(large)
        assert [name for name, _ in await rows_of(store, table)] == [*kept, "beside the large one"]

    async def test_closing_lets_transactions_finish(self, make: MakeStore, table: str) -> None:
        """Transactions under way while the store closes commit or are StoreUnavailable; what committed is there."""
        async with make() as store:
            requires(store.capabilities, "survives_restart")
            await create(store, table)
            names = [f"row {number}" for number in range(40)]
            tasks = [asyncio.get_running_loop().create_task(store.transact(insert(table, name))) for name in names]
            await asyncio.sleep(0)
        await within(asyncio.wait(tasks))
        async with make() as store:
            committed = [name for name, task in zip(names, tasks, strict=True) if task.exception() is None]
            assert all(isinstance(task.exception(), StoreUnavailable | None) for task in tasks)
            assert sorted(name for name, _ in await rows_of(store, table)) == sorted(committed)

    async def test_a_closed_store_says_so(self, make: MakeStore, table: str) -> None:
        """Using a closed store is StoreUnavailable, not a hang and not a driver's error."""
        async with make() as store:
            await create(store, table)
        with pytest.raises(StoreUnavailable):
            await within(store.transact(insert(table, "late")))
        with pytest.raises(StoreUnavailable):
            await within(store.query("SELECT 1"))
        with pytest.raises(StoreUnavailable):
            await within(store.scan("SELECT 1"))
