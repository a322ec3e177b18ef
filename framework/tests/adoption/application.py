"""An application that has nothing of Millstream but its tables: its database, on either engine, and its events."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millstream import Event
from millstream.adoption import tables
from millstream.message import Message, decode_message
from millstream.testing.engines.postgresql import PostgresqlServer
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DATABASE = "shop"
BUSINESS = "CREATE TABLE orders (id TEXT PRIMARY KEY)"
PATIENCE_SECONDS = 60.0


class Placed(Event, topic="orders", key="order"):
    order: str
    note: str = ""


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)


class Cancelled(Exception):
    """What undoes a transaction in these tests."""


class Database:
    """An application's database on one of the engines, and what came to stand in it."""

    def __init__(self, kind: str, server: PostgresqlServer, folder: Path) -> None:
        self.kind = kind
        self.server = server
        self.file = folder / "shop.db"
        self.url = f"{server.url}/{DATABASE}" if kind == "postgresql" else f"sqlite:///{self.file}"
        if kind == "postgresql":
            server.execute(
                "TRUNCATE orders, millstream_outbox, millstream_inbox, millstream_held_keys RESTART IDENTITY", DATABASE
            )
        else:
            with self._sqlite() as connection:
                for sql in (*tables("sqlite"), BUSINESS):
                    connection.execute(sql)

    @contextmanager
    def _sqlite(self) -> Iterator[sqlite3.Connection]:
        """By the library that the application uses. With two of them in one process, what one closes would take the
        other's locks away."""
        connection = sqlite3.connect(self.file, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    def alchemy(self, driver: str = "psycopg") -> str:
        """Its URL as SQLAlchemy writes it."""
        return self.url.replace("postgresql://", f"postgresql+{driver}://")

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        if self.kind == "postgresql":
            return self.server.execute(sql, DATABASE)
        with self._sqlite() as connection:
            return connection.execute(sql).fetchall()

    def orders(self) -> list[str]:
        return sorted(row[0] for row in self.rows("SELECT id FROM orders"))

    def messages(self) -> list[Message]:
        """What waits in the outbox, in the order of the rows."""
        return [
            decode_message(bytes(value)) for (value,) in self.rows("SELECT value FROM millstream_outbox ORDER BY id")
        ]

    def published(self) -> list[str]:
        """The keys of it."""
        rows = self.rows("SELECT key, value FROM millstream_outbox ORDER BY id")
        for key, value in rows:
            assert decode_message(bytes(value)).subject == key
        return [key for key, _ in rows]


def until(condition: Callable[[], bool], otherwise: str = "it did not come about") -> None:
    """Wait for a condition of another process or thread."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up, otherwise
        time.sleep(0.005)
