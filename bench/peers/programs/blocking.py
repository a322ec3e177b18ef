"""Business rows and effects by psycopg, for the peers whose handlers block: a pool of connections, a transaction each."""

# pyright: reportMissingImports=false
# (the driver's pool lives in .venv-peers)

from __future__ import annotations

from collections.abc import Callable, Sequence

from psycopg_pool import ConnectionPool

from ..workload import POOL, Task, engine, key_of, produce_in_threads

__all__ = ["Database", "produce_dual"]

BUSINESS = "INSERT INTO business (key, n) VALUES (%s, %s)"
EFFECT = "INSERT INTO effects (key, n) VALUES (%s, %s)"


class Database:
    """Opened by the first use, which comes after a worker has forked."""

    def __init__(self, connections: int = POOL) -> None:
        self._connections = connections
        self._pool: ConnectionPool | None = None

    def write_business(self, n: int) -> None:
        """One row, committed."""
        self._execute(BUSINESS, key_of(n), n)

    def write_effect(self, key: str, n: int) -> None:
        """One row, committed."""
        self._execute(EFFECT, key, n)

    def open(self) -> None:
        """Connect. Call it before threads use it."""
        pool = ConnectionPool(
            engine("postgresql"),
            min_size=self._connections,
            max_size=self._connections,
            open=True,
            kwargs={"autocommit": True},
        )
        pool.wait()
        self._pool = pool

    def _execute(self, statement: str, key: str, n: int) -> None:
        assert self._pool is not None
        with self._pool.connection() as connection:
            connection.execute(statement.encode(), (key, n))


def produce_dual(task: Task, publish: Callable[[int], object]) -> None:
    """The row is committed, then its event published and confirmed. A crash in between loses it."""
    database = Database()
    database.open()

    def unit(numbers: Sequence[int]) -> None:
        for n in numbers:
            database.write_business(n)
            publish(n)

    produce_in_threads(task, lambda: unit)
