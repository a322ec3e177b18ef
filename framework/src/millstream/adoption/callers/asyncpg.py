"""asyncpg: a connection, or one that a pool has lent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, final

from ...errors import Misconfigured
from ..buffer import Buffer
from ..rows import Encoder, OutboxRow, slots_of
from ..statements import Place

__all__ = ["AsyncpgTransaction", "accept", "transaction", "write"]


@final
class AsyncpgTransaction(Buffer):
    """The transaction of an `outbox.transaction(connection)` block."""

    def __init__(self, encoder: Encoder, connection: Any) -> None:
        super().__init__(encoder)
        self.connection = connection

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """A part that may fail: what it did, and what it published, is undone when it raises."""
        with self.part():
            async with self.connection.transaction():
                yield


@asynccontextmanager
async def transaction(place: Place, encoder: Encoder, connection: Any) -> AsyncGenerator[AsyncpgTransaction]:
    """Begin, hand out, write what was published, commit."""
    if connection.is_in_transaction():
        raise Misconfigured(
            "outbox.transaction: this connection is in a transaction already. Begin it with outbox.transaction, or call "
            "`await outbox.publish(event, connection=connection)` as its last statement"
        )
    async with connection.transaction():
        tx = AsyncpgTransaction(encoder, connection)
        yield tx
        await _insert(place, connection, tx.end())


async def write(place: Place, connection: Any, rows: Sequence[OutboxRow]) -> None:
    """Insert rows into the transaction that is open."""
    if not connection.is_in_transaction():
        raise Misconfigured("publish inside a transaction: async with outbox.transaction(connection) as tx")
    await _insert(place, connection, rows)


async def accept(connection: Any, insert: str, bound: str, params: Sequence[Any]) -> tuple[bool, int]:
    """Insert an inbox row; whether it is new, and the bound below which the inbox has forgotten (0: none)."""
    if not connection.is_in_transaction():
        raise Misconfigured("accept inside the transaction of the message's work: async with connection.transaction()")
    if await connection.fetchval(insert, *params) is None:
        return False, 0
    return True, await connection.fetchval(bound, *params[:2]) or 0


async def _insert(place: Place, connection: Any, rows: Sequence[OutboxRow]) -> None:
    if not rows:
        return
    await connection.fetch(place.lock_and_ring("$1"), slots_of(rows))
    columns = [list(column) for column in zip(*((r.slot, r.topic, r.key, r.value) for r in rows), strict=True)]
    await connection.execute(place.insert_arrays("$1", "$2", "$3", "$4"), *columns)
