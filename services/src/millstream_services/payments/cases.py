"""Cases: what a person has to look at, because the books disagree or a provider never answered."""

from __future__ import annotations

import msgspec
from millstream import Query, Tx

__all__ = ["CaseRow", "close_case", "list_cases", "open_case"]


class CaseRow(msgspec.Struct, frozen=True):
    """A row of `cases`. subject: a payment, a refund, or a key of the provider's."""

    id: int
    kind: str
    subject: str
    detail: str
    opened_us: int
    closed_us: int | None
    resolution: str


_COLUMNS = "id, kind, subject, detail, opened, closed, resolution"


async def open_case(tx: Tx, kind: str, subject: str, detail: str) -> bool:
    """Open a case; False when one of this kind is open for the subject."""
    return bool(
        await tx.execute(
            "INSERT INTO cases (kind, subject, detail, opened) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            kind, subject, detail, tx.now_us,
        )
    )  # fmt: skip


async def close_case(tx: Tx, case: int, resolution: str) -> CaseRow | None:
    """Close an open case; the case as it stands then, closed before included, or None when there is none."""
    await tx.execute(
        "UPDATE cases SET closed = ?, resolution = ? WHERE id = ? AND closed IS NULL", tx.now_us, resolution, case
    )
    row = await tx.fetch_one(f"SELECT {_COLUMNS} FROM cases WHERE id = ?", case)  # noqa: S608 - names from code
    return None if row is None else CaseRow(*row)


async def list_cases(reads: Tx | Query, *, closed_too: bool, limit: int) -> list[CaseRow]:
    """Cases, newest first."""
    where = "" if closed_too else "WHERE closed IS NULL "
    rows = await reads.fetch(f"SELECT {_COLUMNS} FROM cases {where}ORDER BY id DESC LIMIT ?", limit)  # noqa: S608 - names from code
    return [CaseRow(*row) for row in rows]
