"""The PostgreSQL store keeps the store port's promises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from millstream.postgresql.database import database_of
from millstream.stores.postgresql import PostgresqlStore
from millstream.testing.conformance.store import StoreConformance
from millstream.testing.conformance.store_case import MakeStore
from millstream.testing.engines.postgresql import PostgresqlServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


class TestPostgresqlStore(StoreConformance):
    @pytest.fixture
    def make(self, server: PostgresqlServer) -> MakeStore:
        return lambda: PostgresqlStore(database_of(server.url, "conformance"))
