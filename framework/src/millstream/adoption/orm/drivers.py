"""The kernel's statements on the driver's own connection, inside the transaction that SQLAlchemy began on it.

SQLAlchemy's statement layer would cost each of them more than the driver does, and has no words for most of them. What a
driver raises is translated here, by the same table as in the PostgreSQL store.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol, final

import psycopg
from psycopg.rows import tuple_row

from ...errors import BadStatement, MillstreamError, Misconfigured
from ...ports.store import Param, Row
from ...postgresql.errors import Unreachable, named

__all__ = ["Driver", "driver_of", "meaning_of"]


class Driver(Protocol):
    """One connection. Statements mark their parameters `$1`, `$2`, …"""

    async def execute(self, sql: str, params: Sequence[Param]) -> int:
        """Run a statement; how many rows it changed."""
        ...

    async def fetch(self, sql: str, params: Sequence[Any]) -> list[Row]:
        """Run a statement; its rows."""
        ...

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        """Run a statement for each row of parameters, in order."""
        ...


def driver_of(name: str, connection: Any) -> Driver:
    """The driver by SQLAlchemy's name for it.

    Raises:
        Misconfigured: it is none of the two.
    """
    if name == "asyncpg":
        return _Asyncpg(connection)
    if name == "psycopg":
        return _Psycopg(connection)
    raise Misconfigured(f"postgresql+{name}: a store takes an engine of postgresql+asyncpg or postgresql+psycopg")


@final
class _Asyncpg:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, sql: str, params: Sequence[Param]) -> int:
        status: str = await self._connection.execute(sql, *params) if params else await self._tag(sql)
        word, _, count = status.rpartition(" ")
        return int(count) if count.isdigit() and not word.startswith("SELECT") else 0

    async def _tag(self, sql: str) -> str:
        prepared = await self._connection.prepare(sql)  # without parameters `execute` would take several statements
        await prepared.fetch()
        return prepared.get_statusmsg()

    async def fetch(self, sql: str, params: Sequence[Any]) -> list[Row]:
        return [tuple(map(_portable, row)) for row in await self._connection.fetch(sql, *params)]

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        await self._connection.executemany(sql, rows)


@final
class _Psycopg:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, sql: str, params: Sequence[Param]) -> int:
        async with psycopg.AsyncRawCursor[Any](self._connection) as cursor:
            await cursor.execute(sql.encode(), params or None)
            status = cursor.statusmessage or ""
            return 0 if status.startswith("SELECT") else max(cursor.rowcount, 0)

    async def fetch(self, sql: str, params: Sequence[Any]) -> list[Row]:
        async with psycopg.AsyncRawCursor[Any](self._connection, row_factory=tuple_row) as cursor:
            await cursor.execute(sql.encode(), params or None)
            return [tuple(map(_portable, row)) for row in await cursor.fetchall()]

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        async with psycopg.AsyncRawCursor[Any](self._connection) as cursor:
            await cursor.executemany(sql.encode(), rows)


def _portable(value: Any) -> Any:
    """A sum of integers is an integer, as on SQLite."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def meaning_of(error: BaseException) -> MillstreamError | None:
    """What an error of a driver means, as it is or inside of SQLAlchemy's; None for what is no error of the database."""
    if isinstance(error, MillstreamError):
        return error
    inner = getattr(error, "orig", None) or error
    if isinstance(inner, UnicodeEncodeError):
        return BadStatement(f"a text with half of a surrogate pair cannot be stored: {inner.reason}")
    code = getattr(inner, "sqlstate", None)
    ours = type(inner).__module__.partition(".")[0] in {"asyncpg", "psycopg", "sqlalchemy"}
    if isinstance(code, str) and (ours or isinstance(inner, psycopg.Error)):
        detail = getattr(inner, "detail", None)
        return named(code, f"{inner}{f' ({detail})' if isinstance(detail, str) else ''}")
    if isinstance(inner, OSError | psycopg.OperationalError) or getattr(error, "connection_invalidated", False):
        return Unreachable(str(inner) or type(inner).__name__)
    if ours and type(inner).__name__ in {"InterfaceError", "InternalClientError"} and "closed" in str(inner):
        return Unreachable(str(inner))
    return BadStatement(str(inner)) if ours else None
