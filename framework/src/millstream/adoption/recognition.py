"""Which library a caller's connection belongs to, without importing any that the caller does not use."""

from __future__ import annotations

from typing import Literal

from ..errors import Misconfigured

__all__ = ["Library", "library_of"]

Library = Literal["asyncpg", "psycopg", "psycopg async", "sqlalchemy", "sqlalchemy async", "django"]

_BY_CLASS: dict[tuple[str, str], Library] = {
    ("asyncpg", "Connection"): "asyncpg",
    ("asyncpg", "PoolConnectionProxy"): "asyncpg",
    ("psycopg", "Connection"): "psycopg",
    ("psycopg", "AsyncConnection"): "psycopg async",
    ("sqlalchemy", "Connection"): "sqlalchemy",
    ("sqlalchemy", "Session"): "sqlalchemy",
    ("sqlalchemy", "scoped_session"): "sqlalchemy",
    ("sqlalchemy", "AsyncConnection"): "sqlalchemy async",
    ("sqlalchemy", "AsyncSession"): "sqlalchemy async",
    ("sqlalchemy", "async_scoped_session"): "sqlalchemy async",
    ("django", "BaseDatabaseWrapper"): "django",
    ("django", "ConnectionProxy"): "django",
}


def library_of(connection: object) -> Library:
    """The library of a connection or session, also of a subclass.

    Raises:
        Misconfigured: it is none that can be written to; names those that can.
    """
    for kind in type(connection).__mro__:
        found = _BY_CLASS.get((kind.__module__.partition(".")[0], kind.__name__))
        if found is not None:
            return found
    raise Misconfigured(
        f"connection={type(connection).__module__}.{type(connection).__qualname__}: give a connection of asyncpg, psycopg 3 "
        "or Django, or a connection or session of SQLAlchemy (not an engine, a pool or a cursor)"
    )
