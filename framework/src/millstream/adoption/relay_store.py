"""The store that a relay reads: an application's database, opened beside the application."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import msgspec

from ..clock import Clock
from ..errors import BadStatement, Misconfigured
from ..ports.instrumentation import Instrumentation
from ..ports.store import Signal, Store
from ..runtime.migrations import migrate
from .shared_file import SharedSqliteFile
from .statements import Place

if TYPE_CHECKING:
    from ..postgresql.database import Database

__all__ = ["RelayStore", "Source", "source_of"]

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


@final
class Source:
    """An application's database, not opened yet. `name` is its name in metrics."""

    def __init__(self, store: Any, shared: Any, name: str, shown: str, database: Database | None = None) -> None:
        """database: where to look, on PostgreSQL, before the store is opened, which would make what is missing."""
        self._store = store
        self._database = database
        self._shared = shared
        self._shown = shown
        self.name = name

    @asynccontextmanager
    async def opened(self, *, create: bool) -> AsyncGenerator[tuple[Store, Store]]:
        """The store, and what the kernel's relay takes for it. create: make the tables that are missing.

        Raises:
            Misconfigured: the database or its tables are missing. StoreUnavailable: it is away.
        """
        store = self._store
        if self._database is not None and not create:
            await self._check_clock(self._database)
        async with store:
            if create:
                await migrate(store, "", None)
            await self._check_tables()
            yield store, self._shared

    async def _check_clock(self, database: Database) -> None:
        from ..postgresql.connection import NO_PARAMETERS
        from ..postgresql.pool import run

        connection = await database.reader()
        try:
            (found,) = await run(connection, ((b"SELECT to_regprocedure('millstream_now()') IS NULL", NO_PARAMETERS),))
            if connection.rows(found)[0][0]:
                raise self._missing(NEEDED)
        finally:
            connection.close()

    async def _check_tables(self) -> None:
        missing: list[str] = []
        for table in NEEDED:
            try:
                await self._store.query(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608 - our own names
            except BadStatement as error:
                if table not in str(error):
                    raise
                missing.append(table)
        if missing:
            raise self._missing(missing)

    def _missing(self, names: Sequence[str]) -> Misconfigured:
        dialect = self._store.capabilities.dialect
        elsewhere = "; if they are in another schema, name it with --schema" if dialect == "postgresql" else ""
        return Misconfigured(
            f"{self._shown} has no {', '.join(names)}: run `millstream relay … --create-tables` once, or put what "
            f"`millstream relay --print-tables {dialect}` prints into a migration of the application{elsewhere}"
        )


def source_of(url: str, *, schema: str | None, clock: Clock, instrumentation: Instrumentation) -> Source:
    """An application's database by its URL: `postgresql://user@host/database` or `sqlite:///path/to/file.db`.

    Raises:
        Misconfigured: the URL is none of these; lists every problem.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        path = Path(url.removeprefix("sqlite://"))
        if not url.startswith("sqlite:///") or not path.name or schema is not None:
            raise Misconfigured(
                f"--store {url}: name the application's file, as in sqlite:///path/to/app.db, without a schema"
            )
        file = SharedSqliteFile(path, clock=clock)
        return Source(file, file, path.stem, str(path))
    if scheme not in ("postgresql", "postgres"):
        raise Misconfigured(
            f"--store {scheme}: an outbox is relayed from postgresql://…/database or sqlite:///path/to/file"
        )
    try:
        from ..postgresql.database import database_of
        from ..stores.postgresql import PostgresqlStore
        from .bell import Bell
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"--store {scheme}: {error.name} is not installed: pip install 'millstream[postgresql]'"
        ) from error
    place = Place(schema)
    database = database_of(url, "relay")
    if database.schema is None:
        raise Misconfigured(f"--store {database.shown}: name the application's database, as in postgresql://host/app")
    # Without a schema the tables are where the role's search path finds them, as for the application.
    database = msgspec.structs.replace(database, schema=schema, connections=CONNECTIONS)
    store = PostgresqlStore(database, clock=clock, instrumentation=instrumentation)
    shared = RelayStore(store, lambda inner: Bell(inner, database, place, instrumentation))
    return Source(store, shared, schema or database.name, database.shown, database)
