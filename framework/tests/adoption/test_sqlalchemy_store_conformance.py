"""The store over an application's own SQLAlchemy engine keeps the store port's promises, on both of its drivers.

On asyncpg the whole suite; on psycopg what depends on the driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from millstream.adoption.orm import SqlalchemyStore
from millstream.testing.conformance.store import StoreConformance
from millstream.testing.conformance.store_case import MakeStore
from millstream.testing.conformance.store_statements import Statements
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .application import Database


class TestSqlalchemyStore(StoreConformance):
    driver = "asyncpg"

    @pytest.fixture
    def conformance_declares(self) -> Callable[[Any], None]:
        """Its column of the page would be that of the PostgreSQL store."""
        return lambda _: None

    @pytest.fixture
    async def engine(self, database: Database) -> AsyncIterator[AsyncEngine]:
        engine = create_async_engine(database.alchemy(self.driver))
        yield engine
        await engine.dispose()

    @pytest.fixture
    def make(self, engine: AsyncEngine) -> MakeStore:
        return lambda: SqlalchemyStore(engine)


class TestSqlalchemyStoreOnPsycopg(Statements):
    driver = "psycopg"
    engine = TestSqlalchemyStore.engine
    make = TestSqlalchemyStore.make
