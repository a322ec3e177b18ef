"""psycopg 3: `psycopg.Connection` and `psycopg.AsyncConnection`, also those that a pool has lent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, final

from psycopg.pq import TransactionStatus

from ...errors import Misconfigured
from ..buffer import Buffer
from ..rows import Encoder, OutboxRow, slots_of
from ..statements import Place

__all__ = [
    "AsyncPsycopgTransaction",
    "PsycopgTransaction",
    "accept",
    "accept_async",
    "transaction",
    "transaction_async",
    "write",
    "write_async",
]


@final
class PsycopgTransaction(Buffer):
    """The transaction of a `with outbox.transaction(connection)` block."""

    def __init__(self, encoder: Encoder, connection: Any) -> None:
        super().__init__(encoder)
        self.connection = connection

    @contextmanager
    def savepoint(self) -> Generator[None]:
        """A part that may fail: what it did, and what it published, is undone when it raises."""
        with self.part(), self.connection.transaction():
            yield


@final
class AsyncPsycopgTransaction(Buffer):
    """The transaction of an `async with outbox.transaction(connection)` block."""

    def __init__(self, encoder: Encoder, connection: Any) -> None:
        super().__init__(encoder)
        self.connection = connection

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """A part that may fail: what it did, and what it published, is undone when it raises."""
        with self.part():
            async with self.connection.transaction():
                yield


@contextmanager
def transaction(place: Place, encoder: Encoder, connection: Any) -> Generator[PsycopgTransaction]:
    """Begin, hand out, write what was published, commit."""
    _check_idle(connection)
    with connection.transaction():
        tx = PsycopgTransaction(encoder, connection)
        yield tx
        _insert(place, connection, tx.end())


@asynccontextmanager
async def transaction_async(place: Place, encoder: Encoder, connection: Any) -> AsyncGenerator[AsyncPsycopgTransaction]:
    """Begin, hand out, write what was published, commit."""
    _check_idle(connection)
    async with connection.transaction():
        tx = AsyncPsycopgTransaction(encoder, connection)
        yield tx
        await _insert_async(place, connection, tx.end())


def write(place: Place, connection: Any, rows: Sequence[OutboxRow]) -> None:
    """Insert rows into the transaction that is open, or that a connection without autocommit opens now."""
    _check_transaction(connection, "publish")
    _insert(place, connection, rows)


async def write_async(place: Place, connection: Any, rows: Sequence[OutboxRow]) -> None:
    """As `write`."""
    _check_transaction(connection, "publish")
    await _insert_async(place, connection, rows)


def accept(connection: Any, insert: str, bound: str, params: Sequence[Any]) -> tuple[bool, int]:
    """Insert an inbox row; whether it is new, and the bound below which the inbox has forgotten (0: none)."""
    _check_transaction(connection, "accept")
    if connection.execute(insert, params).fetchone() is None:
        return False, 0
    found = connection.execute(bound, params[:2]).fetchone()
    return True, _first(found)


async def accept_async(connection: Any, insert: str, bound: str, params: Sequence[Any]) -> tuple[bool, int]:
    """As `accept`."""
    _check_transaction(connection, "accept")
    if await (await connection.execute(insert, params)).fetchone() is None:
        return False, 0
    found = await (await connection.execute(bound, params[:2])).fetchone()
    return True, _first(found)


def _first(row: Any) -> int:
    """The column of a row, whatever the connection's row factory makes of it."""
    if row is None:
        return 0
    value: Any = next(iter(row.values())) if isinstance(row, dict) else row[0]  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType] - a user's own row factory
    return int(value or 0)  # pyright: ignore[reportUnknownArgumentType] - as above


def _insert(place: Place, connection: Any, rows: Sequence[OutboxRow]) -> None:
    if rows:
        connection.execute(place.lock_and_ring("%s"), (slots_of(rows),))
        connection.execute(place.insert_arrays("%s", "%s", "%s", "%s"), _arrays(rows))


async def _insert_async(place: Place, connection: Any, rows: Sequence[OutboxRow]) -> None:
    if rows:
        await connection.execute(place.lock_and_ring("%s"), (slots_of(rows),))
        await connection.execute(place.insert_arrays("%s", "%s", "%s", "%s"), _arrays(rows))


def _arrays(rows: Sequence[OutboxRow]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*((r.slot, r.topic, r.key, r.value) for r in rows), strict=True))


def _check_idle(connection: Any) -> None:
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise Misconfigured(
            "outbox.transaction: this connection is in a transaction already (without autocommit its first statement "
            "begins one). Begin it with outbox.transaction, or call outbox.publish(event, connection=connection) as its "
            "last statement"
        )


def _check_transaction(connection: Any, what: str) -> None:
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise Misconfigured(
            f"{what} inside a transaction: with outbox.transaction(connection) as tx, or connection.transaction()"
        )
