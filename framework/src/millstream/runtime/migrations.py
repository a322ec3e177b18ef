"""Bringing a store's schema up to date: the kernel's tables, then the service's own, each file once, in order.

Files are named `0001_what.sql`. They expand and contract: version N and N + 1 of a service run side by side, so a
migration never takes away what the version before it still uses. A file that was applied must not change any more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from ..errors import BadStatement, Conflict, Misconfigured
from ..ports.store import Session, Store

__all__ = ["KERNEL", "Migration", "is_used", "migrate", "migrations_in", "pending"]

KERNEL = Path(__file__).parents[1] / "delivery" / "sql"

_TABLE = """
CREATE TABLE IF NOT EXISTS millstream_schema_migrations (
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied INTEGER NOT NULL,
    PRIMARY KEY (owner, version)
)
"""

_RECORD = """
INSERT INTO millstream_schema_migrations (owner, version, name, checksum, applied) VALUES ({values}, millstream_now())
"""


class Migration(msgspec.Struct, frozen=True):
    """One file. `owner` is `millstream` or the service."""

    owner: str
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()[:16]


def migrations_in(owner: str, folder: str | Path) -> list[Migration]:
    """The migrations of a folder, in order.

    Raises:
        Misconfigured: the folder is missing, a file has no number, or two have the same.
    """
    path = Path(folder)
    if not path.is_dir():
        raise Misconfigured(f"service {owner}: migrations={path.name!r}: there is no folder {path}")
    found: list[Migration] = []
    problems: list[str] = []
    for file in sorted(path.glob("*.sql")):
        number, _, name = file.stem.partition("_")
        if not number.isdigit() or not name.replace("_", "").replace("-", "").isalnum():
            problems.append(f"{file}: name migrations like 0001_what.sql")
            continue
        if found and found[-1].version == int(number):
            problems.append(f"{file}: number {number} is taken by {found[-1].name}")
        found.append(Migration(owner, int(number), name, file.read_text(encoding="utf-8")))
    if problems:
        raise Misconfigured(problems)
    return found


async def pending(store: Store, migrations: list[Migration]) -> list[Migration]:
    """Those that the store has not applied.

    Raises:
        Misconfigured: an applied file has changed since, or the store is ahead of this version by a file.
    """
    await store.script(_TABLE)
    applied = {
        (row[0], row[1]): row[2]
        for row in await store.query("SELECT owner, version, checksum FROM millstream_schema_migrations")
    }
    changed = [
        f"migration {m.owner}/{m.version:04}_{m.name}.sql was changed after it was applied: put it back as it was and "
        "write the change as a new file"
        for m in migrations
        if applied.get((m.owner, m.version), m.checksum) != m.checksum
    ]
    if changed:
        raise Misconfigured(changed)
    return [m for m in migrations if (m.owner, m.version) not in applied]


async def migrate(store: Store, service: str, folder: str | None) -> list[Migration]:
    """Apply what is pending: each file and its record in one transaction. Returns what was applied."""
    migrations = migrations_in("millstream", KERNEL)
    if folder is not None:
        migrations += migrations_in(service, folder)
    todo = await pending(store, migrations)
    for migration in todo:
        values = f"'{migration.owner}', {migration.version}, '{migration.name}', '{migration.checksum}'"
        record = _RECORD.format(values=values)  # a script takes no parameters; these are names of our own files
        try:
            await store.script(f"{migration.sql}\n;\n{record}")
        except (BadStatement, Conflict):
            if migration in await pending(store, [migration]):
                raise
            # Another process that starts with us was faster.
    return todo


async def is_used(session: Session) -> bool:
    """Whether a store has had subscriptions before."""
    return await session.fetch_one("SELECT 1 FROM millstream_subscriptions LIMIT 1") is not None
