"""What the store suite's parts share: the fixtures an adapter author overrides, and tables that are the test's own."""

# ruff: noqa: S608 - the name of a table is the test's own

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

import pytest

from ...ports.store import Row, Session, Store
from .capabilities import not_offered

__all__ = ["MakeStore", "StoreCase", "insert", "rows_of"]

MakeStore = Callable[[], Store]


class StoreCase:
    """Override `make`, and `full_disk` where the engine can be made to run out of space."""

    @pytest.fixture
    def make(self) -> MakeStore:
        """A function that gives a store, not yet opened. Within one test every call gives the same database, so that
        opening a second one after the first is a restart."""
        raise NotImplementedError("override the fixture `make`")

    def full_disk(self, store: Store) -> AbstractAsyncContextManager[None]:
        """While it is entered, a transaction that needs more space than a few pages fails."""
        not_offered("full_disk")

    @pytest.fixture
    def table(self) -> str:
        """A name that no other test uses."""
        return f"conformance_{uuid4().hex[:16]}"

    @pytest.fixture
    async def store(self, make: MakeStore, table: str) -> AsyncIterator[Store]:
        """An open store with `table (id, name, n)`: `id` grows by itself, `name` is unique."""
        async with make() as store:
            await create(store, table)
            yield store


async def create(store: Store, table: str) -> None:
    """The table that the tests write to."""
    identity = {
        "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY",
    }[store.capabilities.dialect]
    await store.script(f"CREATE TABLE {table} (id {identity}, name TEXT UNIQUE, n BIGINT CHECK (n >= 0));")


def insert(table: str, name: str, n: int = 0) -> Callable[[Session], Awaitable[None]]:
    """Work that inserts one row."""

    async def work(session: Session) -> None:
        await session.execute(f"INSERT INTO {table} (name, n) VALUES (?, ?)", name, n)

    return work


async def rows_of(store: Store, table: str) -> list[Row]:
    """(name, n) of every committed row, in row order."""
    return await store.query(f"SELECT name, n FROM {table} ORDER BY id")
