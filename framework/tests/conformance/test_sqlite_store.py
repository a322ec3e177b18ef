"""The SQLite store keeps the store port's promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from millstream.ports.store import Store
from millstream.stores.sqlite import SqliteStore
from millstream.testing.conformance.store import StoreConformance
from millstream.testing.conformance.store_case import MakeStore


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakeStore:
        return lambda: SqliteStore(tmp_path / "service.db")

    @asynccontextmanager
    async def full_disk(self, store: Store) -> AsyncIterator[None]:
        assert isinstance(store, SqliteStore)
        writer = store.file._writer  # the setting belongs to this connection
        unlimited = writer.pragma("max_page_count")
        writer.pragma("max_page_count", writer.pragma("page_count"))
        yield
        writer.pragma("max_page_count", unlimited)
