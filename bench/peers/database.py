"""The database of one measurement: the tables of the work, and what the server knows about the rows in them.

Times are those of the commits (`track_commit_timestamp`), by the clock of the one server: nobody who takes part can measure
itself, and rows that share a commit share its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from .judge import Effect

__all__ = ["PUBLIC", "SETTINGS", "Database", "Tables", "fresh_database"]

SETTINGS = {"track_commit_timestamp": "on"}
"""What the server needs on top of what it is by default."""
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Tables:
    """In which schemas business rows and effects lie."""

    business: str = "public"
    effects: str = "public"


PUBLIC = Tables()


class Database:
    """One open database."""

    def __init__(self, url: str, tables: Tables) -> None:
        self.url = url
        self._business = sql.Identifier(tables.business, "business")
        self._effects = sql.Identifier(tables.effects, "effects")
        self._sequence = sql.Identifier(tables.effects, "effects_id_seq")
        self._connection = psycopg.connect(url, autocommit=True)
        for schema in {tables.business, tables.effects}:
            self._connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        for table in (self._business, self._effects):
            self._connection.execute(
                # No unique constraint: what is done twice shall show.
                sql.SQL(
                    "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL, n bigint NOT NULL)"
                ).format(table)
            )

    def number(self, statement: str) -> int:
        """The one value that a statement of the catalogue gives; 0 for none, and while its table is not there yet."""
        try:
            row = self._connection.execute(statement.encode()).fetchone()
        except psycopg.errors.UndefinedTable:
            return 0
        return int(row[0]) if row and row[0] is not None else 0

    def published(self, first: int = 0) -> dict[int, int]:
        """The number of each business row from `first` on, and when it was committed, in microseconds."""
        rows = self._connection.execute(sql.SQL(_NUMBERS).format(self._business), (first,))
        return {row[0]: row[1] for row in rows}

    def effects(self, first: int = 0) -> list[Effect]:
        """In the order of their commits."""
        rows = self._connection.execute(sql.SQL(_EFFECTS).format(self._effects), (first,))
        return [Effect(*row) for row in rows]

    def written(self) -> int:
        """Effects so far; those of transactions that were undone count too. Cheap."""
        row = self._connection.execute(
            sql.SQL("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {}").format(self._sequence)
        ).fetchone()
        assert row is not None
        return row[0]

    def different(self) -> int:
        """How many events have an effect."""
        row = self._connection.execute(sql.SQL("SELECT count(DISTINCT n) FROM {}").format(self._effects)).fetchone()
        assert row is not None
        return row[0]

    def wait_for(self, events: int, seconds: float, check: Callable[[], object], patience: float = 60.0) -> bool:
        """Until so many events have an effect; False after `seconds`, or when none came for `patience` seconds."""
        until = time.monotonic() + seconds
        last, changed = -1, time.monotonic()
        while True:
            check()
            written = self.written()
            now = time.monotonic()
            if written != last:
                last, changed = written, now
            if written >= events and self.different() >= events:
                return True
            if now > until or now - changed > patience:
                return False
            time.sleep(POLL_SECONDS if written < events else 5 * POLL_SECONDS)

    def wait_for_written(self, effects: int, seconds: float, check: Callable[[], object]) -> bool:
        """Until about so many effects are there; looks often, because a worker may write thousands in a moment."""
        until = time.monotonic() + seconds
        while self.written() < effects:
            check()
            if time.monotonic() > until:
                return False
            time.sleep(POLL_SECONDS / 10)
        return True

    def close(self) -> None:
        self._connection.close()


@contextmanager
def fresh_database(server: str, name: str, tables: Tables) -> Generator[Database]:
    """A database with the empty tables; it is gone afterwards, whoever is still connected."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        connection.execute("CHECKPOINT")  # what came before shall not be written down in the middle of this one
    database = Database(f"{server}/{name}", tables)
    try:
        yield database
    finally:
        database.close()
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


_MICROSECONDS = "(extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint"
_NUMBERS = f"SELECT n, {_MICROSECONDS} FROM {{}} WHERE n >= %s"
_EFFECTS = f"SELECT n, key, {_MICROSECONDS} AS committed FROM {{}} WHERE n >= %s ORDER BY committed, id"
