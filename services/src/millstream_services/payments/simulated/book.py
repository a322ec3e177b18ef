"""The simulated provider's book: who was really charged, and how often. A database of its own, beside the services'.

It is read with any tool of the engine: `SELECT key, status, charges, calls FROM charges`, on SQLite in `provider.db`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from millstream.ports.store import Session, Store

__all__ = ["SCHEMA", "Book", "ChargeRow", "News"]

R = TypeVar("R")

SCHEMA = """
CREATE TABLE IF NOT EXISTS charges (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    ref TEXT NOT NULL,
    reference TEXT NOT NULL,
    method TEXT NOT NULL,
    amount INTEGER NOT NULL,
    currency TEXT NOT NULL,
    status TEXT NOT NULL,               -- none, pending, succeeded, declined or cancelled
    charges INTEGER NOT NULL DEFAULT 0, -- how often money was taken
    calls INTEGER NOT NULL DEFAULT 1,   -- how often it was asked for
    refunded INTEGER NOT NULL DEFAULT 0,
    CHECK (charges <= 1 AND refunded <= amount)
);
CREATE TABLE IF NOT EXISTS refunds (key TEXT PRIMARY KEY, ref TEXT NOT NULL, charge TEXT NOT NULL, amount INTEGER NOT NULL);
-- Settlements and news that are due later. sent: null until the receiver has confirmed it.
CREATE TABLE IF NOT EXISTS news (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    due INTEGER NOT NULL,
    event TEXT NOT NULL,
    key TEXT NOT NULL,
    status TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    sent INTEGER
);
CREATE INDEX IF NOT EXISTS news_due ON news (due) WHERE sent IS NULL;
CREATE TABLE IF NOT EXISTS secrets (secret BLOB NOT NULL);
"""

_COLUMNS = "key, ref, reference, method, amount, currency, status, charges, calls, refunded"


class ChargeRow(msgspec.Struct, frozen=True):
    """A row of the book."""

    key: str
    ref: str
    reference: str
    method: str
    amount: int
    currency: str
    status: str
    charges: int
    calls: int
    refunded: int


class News(msgspec.Struct, frozen=True):
    """A webhook that is due. Deliveries of one event share its id."""

    seq: int
    due: int
    event: str
    key: str
    status: str
    tries: int


class Book:
    """The book over an open store. Each method is one durable transaction or one read."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def prepare(self, secret: bytes) -> bytes:
        """Make the tables; return the secret that webhooks are signed with: this one, or what an earlier start chose."""
        await self.store.script(SCHEMA)
        rows = await self.store.query("SELECT secret FROM secrets")
        if rows:
            return bytes(rows[0][0])

        async def keep(session: Session) -> None:
            await session.execute("INSERT INTO secrets (secret) VALUES (?)", secret)

        await self.store.transact(keep)
        return secret

    async def transact(self, work: Callable[[Session], Awaitable[R]]) -> R:
        return await self.store.transact(work)

    async def find(self, key: str) -> ChargeRow | None:
        """A charge by its key."""
        rows = await self.store.query(f"SELECT {_COLUMNS} FROM charges WHERE key = ?", key)  # noqa: S608 - names from code
        return ChargeRow(*rows[0]) if rows else None

    async def page(self, after: int, limit: int) -> list[tuple[int, ChargeRow]]:
        """(seq, row) of up to `limit` charges behind a seq."""
        rows = await self.store.query(
            f"SELECT seq, {_COLUMNS} FROM charges WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608 - names from code
            after, limit,
        )  # fmt: skip
        return [(row[0], ChargeRow(*row[1:])) for row in rows]

    async def next_news(self, limit: int) -> list[News]:
        """News that nobody confirmed yet, the first due first."""
        rows = await self.store.query(
            "SELECT seq, due, event, key, status, tries FROM news WHERE sent IS NULL ORDER BY due, seq LIMIT ?", limit
        )
        return [News(*row) for row in rows]


async def enter(
    session: Session, key: str, ref: str, reference: str, method: str, amount: int, currency: str, status: str
) -> ChargeRow:
    """Count a call for a key, and enter it when it is new. Money is taken with the entry when it is `succeeded`."""
    row = await session.fetch_one(
        f"INSERT INTO charges (key, ref, reference, method, amount, currency, status, charges) "  # noqa: S608 - names from code
        f"VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET calls = charges.calls + 1 RETURNING {_COLUMNS}",
        key, ref, reference, method, amount, currency, status, int(status == "succeeded"),
    )  # fmt: skip
    assert row is not None
    return ChargeRow(*row)


async def turn(session: Session, key: str, was: tuple[str, ...], status: str) -> bool:
    """Bring a charge from one status into another; money is taken exactly when it becomes `succeeded`."""
    marks = ", ".join("?" * len(was))
    return bool(
        await session.execute(
            f"UPDATE charges SET status = ?, charges = charges + ? WHERE key = ? AND status IN ({marks})",  # noqa: S608 - marks
            status, int(status == "succeeded"), key, *was,
        )
    )  # fmt: skip


async def announce(session: Session, due: int, event: str, key: str, status: str) -> None:
    """A webhook for later."""
    await session.execute("INSERT INTO news (due, event, key, status) VALUES (?, ?, ?, ?)", due, event, key, status)


async def confirm(session: Session, seq: int, now_us: int) -> None:
    """The receiver has it."""
    await session.execute("UPDATE news SET sent = ? WHERE seq = ?", now_us, seq)


async def postpone(session: Session, seq: int, due: int) -> None:
    """The receiver did not take it; try again then."""
    await session.execute("UPDATE news SET due = ?, tries = tries + 1 WHERE seq = ?", due, seq)


async def give_back(session: Session, key: str, ref: str, charge: str, amount: int) -> str | None:
    """Enter a refund; the ref it stands under, or None when the charge does not have that much left."""
    row = await session.fetch_one("SELECT ref FROM refunds WHERE key = ?", key)
    if row is not None:
        return row[0]
    given = await session.execute(
        "UPDATE charges SET refunded = refunded + ? WHERE key = ? AND status = 'succeeded' AND amount - refunded >= ?",
        amount, charge, amount,
    )  # fmt: skip
    if not given:
        return None
    await session.execute(
        "INSERT INTO refunds (key, ref, charge, amount) VALUES (?, ?, ?, ?)", key, ref, charge, amount
    )
    return ref
