"""The store that a relay reads: an application's database, opened beside the application."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import msgspec

from ..clock import Clock
from ..errors import MillstreamError, Misconfigured
from ..ports.instrumentation import Instrumentation
from ..ports.store import Signal, Store
from .shared_file import SharedSqliteFile
from .statements import Place

__all__ = ["RelayStore", "open_relay_store"]

NEEDED = ("millstream_outbox", "millstream_held_keys", "millstream_inbox")
CONNECTIONS = 2


@final
class RelayStore:
    """What the kernel's relay takes for its store: one of the adapters, and the bell in place of its signal."""

    def __init__(self, store: Any, bell: Callable[[Signal], Signal] | None = None) -> None:
        self._store = store
        self._bell = bell

    def listen(self, channel: str) -> Signal:
        inner = self._store.listen(channel)
        return inner if self._bell is None else self._bell(inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def open_relay_store(
    url: str, *, schema: str | None, create: bool, clock: Clock, instrumentation: Instrumentation
) -> tuple[Store, Store, str]:
    """An application's database by its URL: `postgresql://user@host/database` or `sqlite:///path/to/file.db`.

    Returns the store, opened; what the relay takes for it; and a name for metrics.

    Raises:
        Misconfigured: the URL is none of these, the database or its tables are missing (and `create` is not set).
        StoreUnavailable: the database is away.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        path = Path(url.removeprefix("sqlite://"))
        if not url.startswith("sqlite:///") or schema is not None:
            raise Misconfigured(
                f"--store {url}: name the application's file, as in sqlite:///path/to/app.db, without a schema"
            )
        store: Any = SharedSqliteFile(path, clock=clock)
        shared, name = store, path.stem
    elif scheme in ("postgresql", "postgres"):
        store, shared, name = await _postgresql(url, schema, create, clock, instrumentation)
    else:
        raise Misconfigured(f"--store {scheme}: an outbox is relayed from postgresql://…/database or sqlite:///file")
    await store.__aenter__()
    try:
        await _check_tables(store, create)
    except BaseException:
        await store.__aexit__(None, None, None)
        raise
    return store, shared, name


async def _postgresql(
    url: str, schema: str | None, create: bool, clock: Clock, instrumentation: Instrumentation
) -> tuple[Any, Any, str]:
    from ..postgresql.database import database_of
    from ..stores.postgresql import PostgresqlStore
    from .bell import Bell

    place = Place(schema)
    database = database_of(url, "relay")
    if database.schema is None:
        raise Misconfigured(f"--store {database.shown}: name the application's database, as in postgresql://host/app")
    # Without a schema the tables are where the role's search path finds them, as for the application.
    database = msgspec.structs.replace(database, schema=schema, connections=CONNECTIONS)
    if not create:
        connection = await database.reader()  # opening the store would make what is missing
        try:
            await _check_clock(connection, database.shown)
        finally:
            connection.close()
    store = PostgresqlStore(database, clock=clock, instrumentation=instrumentation)
    shared = RelayStore(store, lambda inner: Bell(inner, database, place, instrumentation))
    return store, shared, database.schema or database.name


async def _check_clock(connection: Any, shown: str) -> None:
    from ..postgresql.connection import NO_PARAMETERS
    from ..postgresql.pool import run

    (found,) = await run(connection, ((b"SELECT to_regprocedure('millstream_now()') IS NULL", NO_PARAMETERS),))
    if connection.rows(found)[0][0]:
        raise _missing(shown, ["millstream_now()"])


async def _check_tables(store: Any, create: bool) -> None:
    if create:
        from ..runtime.migrations import migrate

        await migrate(store, "", None)
    missing: list[str] = []
    for table in NEEDED:
        try:
            await store.query(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608 - our own names
        except MillstreamError as error:
            if table not in str(error):
                raise
            missing.append(table)
    if missing:
        shown = store.path if isinstance(store, SharedSqliteFile) else store.database.shown
        raise _missing(str(shown), missing)


def _missing(shown: str, names: list[str]) -> Misconfigured:
    return Misconfigured(
        f"{shown} has no {', '.join(names)}: run `millstream relay … --create-tables` once, or put "
        "`millstream relay --print-tables postgresql` (or sqlite) into a migration of the application. If they are in "
        "another schema of PostgreSQL, name it with --schema"
    )
