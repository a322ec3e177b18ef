"""The schema as plain statements, for the caller's own migration tool.

They are the migrations that a store runs by itself, records included. So a service of Millstream that moves into the same
schema later finds them applied, and a newer version applies only what is new to it. An application uses two of the tables:
`millstream_outbox` and `millstream_inbox`; the relay also `millstream_held_keys`.
"""

from __future__ import annotations

import re
from typing import Any, Literal, final

from ..delivery.driving import drive
from ..errors import Misconfigured
from ..postgresql.statements import script
from ..runtime.migrations import migrate

__all__ = ["tables"]

_COMMENT = re.compile(r"--[^\n]*")
_NOW = "millstream_now()"
_CLOCK_OF_POSTGRESQL = """CREATE OR REPLACE FUNCTION millstream_now() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint$$"""
_CLOCK_OF_SQLITE = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


def tables(dialect: Literal["postgresql", "sqlite"], *, after: int = 0) -> list[str]:
    """The statements that create the tables, in order; to be run in one transaction.

    after: the number of the last migration that was applied, to get only those that a newer version brings; the table
    `millstream_schema_migrations` has them. In Alembic: `for sql in tables("postgresql"): op.execute(sql)`; in Django:
    `migrations.RunSQL(tables("postgresql"))`.

    Raises:
        Misconfigured: there is no such dialect.
    """
    if dialect not in ("postgresql", "sqlite"):
        raise Misconfigured(f"tables({dialect!r}): there are postgresql and sqlite")
    recorder = _Recorder(after)
    drive(migrate(recorder, "", None))  # pyright: ignore[reportArgumentType] - the part of a store that migrations use
    statements: list[str] = []
    if dialect == "postgresql":
        statements.append(_CLOCK_OF_POSTGRESQL)
    for text in recorder.scripts:
        clean = _COMMENT.sub("", text)
        translated = script(clean).decode() if dialect == "postgresql" else clean.replace(_NOW, _CLOCK_OF_SQLITE)
        statements += [part.strip() for part in translated.split(";") if part.strip()]
    return statements


@final
class _Recorder:
    """Stands in for an empty store: migrations run against it are written down."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.scripts: list[str] = []

    async def script(self, sql: str) -> None:
        self.scripts.append(sql)

    async def query(self, sql: str) -> list[Any]:
        from ..runtime.migrations import KERNEL, migrations_in

        applied = migrations_in("millstream", KERNEL)
        return [(m.owner, m.version, m.checksum) for m in applied if m.version <= self._after]
