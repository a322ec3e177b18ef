"""Databases of an application, on real engines; `application.py` says what stands in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from millstream.adoption import tables
from millstream.testing.engines.postgresql import PostgresqlServer

from .application import BUSINESS, DATABASE, Database


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    settings = {"fsync": "off", "track_commit_timestamp": "on"}
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql"), settings) as server:
        server.execute(f"CREATE DATABASE {DATABASE}")
        for sql in (*tables("postgresql"), BUSINESS):
            server.execute(sql, DATABASE)
        yield server


@pytest.fixture
def database(server: PostgresqlServer, tmp_path: Path) -> Database:
    """On PostgreSQL."""
    return Database("postgresql", server, tmp_path)


@pytest.fixture(params=["postgresql", "sqlite"])
def either(request: pytest.FixtureRequest, server: PostgresqlServer, tmp_path: Path) -> Database:
    """On PostgreSQL, and on SQLite."""
    return Database(request.param, server, tmp_path)


@pytest.fixture
def engine(either: Database) -> Iterator[sa.Engine]:
    """SQLAlchemy's engine on `either`."""
    engine = sa.create_engine(either.alchemy())
    yield engine
    engine.dispose()
