"""The notifications service's rows."""

from __future__ import annotations

from millstream import Query, Tx

__all__ = ["insert_notification", "mark_told", "notifications_of"]


async def insert_notification(tx: Tx, order_id: str, kind: str, about: str, owner: str, *, told: bool) -> bool:
    """Record a notification; False when the fact it is about is known."""
    return bool(
        await tx.execute(
            "INSERT INTO notifications (order_id, kind, about, owner, told) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            order_id, kind, about, owner, tx.now_us if told else None,
        )
    )  # fmt: skip


async def mark_told(tx: Tx, order_id: str, kind: str, about: str) -> None:
    """The letter has left; a repeat does not change when."""
    await tx.execute(
        "UPDATE notifications SET told = ? WHERE order_id = ? AND kind = ? AND about = ? AND told IS NULL",
        tx.now_us, order_id, kind, about,
    )  # fmt: skip


async def notifications_of(reads: Tx | Query, order_id: str) -> list[tuple[str, str, int | None]]:
    """(kind, owner, when it was told) of an order's notifications, oldest first, those not told yet at the end."""
    rows = await reads.fetch(
        "SELECT kind, owner, told FROM notifications WHERE order_id = ? ORDER BY told IS NULL, told, kind", order_id
    )
    return [(kind, owner, told) for kind, owner, told in rows]
