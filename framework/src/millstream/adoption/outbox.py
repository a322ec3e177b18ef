"""Events that leave with the commit of the caller's own transaction, or not at all.

```python
outbox = Outbox("shop")

with Session(engine) as session, session.begin():  # SQLAlchemy, sync or async, and Django's atomic() the same way
    session.add(order)
    outbox.publish(OrderPlaced(order.id), connection=session)

async with outbox.transaction(connection) as tx:  # asyncpg and psycopg
    await connection.execute("INSERT INTO orders …")
    tx.publish(OrderPlaced(order_id))
```

An event is encoded and its size is checked at the call. Its row is written behind the last business statement, under the
locks of its key, which makes the order of commits the order of events for a key, whatever libraries publish side by side
(rule T4). `millstream relay` forwards the rows to a log; the table is the one that every store of Millstream has.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, final, overload

from ..caller import Caller
from ..errors import Misconfigured
from ..message import DATA_LIMIT_BYTES, Message
from .recognition import library_of
from .rows import Encoder
from .statements import Place

if TYPE_CHECKING:
    from asyncpg import Connection as AsyncpgConnection  # pyright: ignore[reportMissingTypeStubs] - it ships none
    from asyncpg.pool import PoolConnectionProxy  # pyright: ignore[reportMissingTypeStubs] - as above
    from psycopg import AsyncConnection as AsyncPsycopgConnection
    from psycopg import Connection as PsycopgConnection

    from .callers.asyncpg import AsyncpgTransaction
    from .callers.psycopg import AsyncPsycopgTransaction, PsycopgTransaction

__all__ = ["Outbox"]


@final
class Outbox:
    """Where one service publishes from its own transactions. Make one and keep it: it opens nothing.

    service: names the source of its messages, as `/shop`. schema: where the tables are, on PostgreSQL; without it the
    connection's search path decides. largest_bytes: what the log carries.
    """

    def __init__(self, service: str, *, schema: str | None = None, largest_bytes: int = DATA_LIMIT_BYTES) -> None:
        if not service or not all(c.isalnum() or c in "._-" for c in service):
            raise Misconfigured(f"Outbox({service!r}): name the service with letters, digits, '.', '_' and '-'")
        self._place = Place(schema)
        self._encoder = Encoder(service, largest_bytes)

    @overload
    def publish(  # pyright: ignore[reportOverlappingOverload] - with every other connection it is not awaited
        self,
        event: object,
        *,
        connection: AsyncpgConnection | PoolConnectionProxy | AsyncPsycopgConnection[Any],
        cause: Message | Caller | None = None,
    ) -> Coroutine[Any, Any, str]: ...

    @overload
    def publish(self, event: object, *, connection: object, cause: Message | Caller | None = None) -> str: ...

    def publish(
        self, event: object, *, connection: object, cause: Message | Caller | None = None
    ) -> str | Coroutine[Any, Any, str]:
        """Publish an event with the commit of this connection's transaction; return its message id.

        SQLAlchemy and Django: the event waits until the commit, and goes with the savepoint it was published in. Not
        awaited, also with async connections and sessions.

        asyncpg and psycopg, outside of `outbox.transaction`: its row is written at once; with async connections the call
        is awaited. Make it the transaction's last statement. Nothing tells when it is not: the order of events still
        holds, but the locks of their keys are held for longer, and two such transactions may lock each other out, in
        which case PostgreSQL ends one of them. `outbox.transaction` does not have this edge.

        cause: the message or caller that this event goes back to; it inherits correlation, trace and tenant.

        Raises:
            Undecodable: the event cannot be encoded. RecordRefused: it is larger than the log carries. Both name it.
            Misconfigured: it is no declared event, there is no transaction, or `connection` is none.
        """
        library = library_of(connection)
        row = self._encoder.row(event, cause)
        match library:
            case "sqlalchemy" | "sqlalchemy async":
                from .callers import sqlalchemy

                sqlalchemy.add(self._place, connection, row)
            case "django":
                from .callers import django

                django.add(self._place, connection, row)
            case "psycopg":
                from .callers import psycopg

                psycopg.write(self._place, connection, [row])
            case "psycopg async":
                from .callers import psycopg

                return _then(psycopg.write_async(self._place, connection, [row]), row.message_id)
            case "asyncpg":
                from .callers import asyncpg

                return _then(asyncpg.write(self._place, connection, [row]), row.message_id)
        return row.message_id

    @overload
    def transaction(
        self, connection: AsyncpgConnection | PoolConnectionProxy
    ) -> AbstractAsyncContextManager[AsyncpgTransaction]: ...

    @overload
    def transaction(
        self, connection: AsyncPsycopgConnection[Any]
    ) -> AbstractAsyncContextManager[AsyncPsycopgTransaction]: ...

    @overload
    def transaction(self, connection: PsycopgConnection[Any]) -> AbstractContextManager[PsycopgTransaction]: ...

    def transaction(self, connection: Any) -> Any:
        """A transaction of asyncpg or psycopg that ends by writing what it published.

        `async with outbox.transaction(connection) as tx:` (psycopg's sync connection: `with`) begins it, and commits at
        the end of the block, or rolls back when it raises. Inside, statements go to `connection` as always,
        `tx.publish(event)` adds an event, and `tx.savepoint()` is a part that may fail.

        Raises:
            Misconfigured: the connection is in a transaction already, or is of a library that needs no such block.
        """
        match library_of(connection):
            case "asyncpg":
                from .callers import asyncpg

                return asyncpg.transaction(self._place, self._encoder, connection)
            case "psycopg":
                from .callers import psycopg

                return psycopg.transaction(self._place, self._encoder, connection)
            case "psycopg async":
                from .callers import psycopg

                return psycopg.transaction_async(self._place, self._encoder, connection)
            case "sqlalchemy" | "sqlalchemy async" | "django":
                raise Misconfigured(
                    "outbox.transaction is for asyncpg and psycopg; here publish(event, connection=…) waits for the commit by "
                    "itself"
                )


async def _then(writing: Coroutine[Any, Any, None], message_id: str) -> str:
    await writing
    return message_id
