"""The notifications service's rows."""

from __future__ import annotations

from millstream import Query, Tx

__all__ = ["insert_notification", "notifications_of"]


async def insert_notification(tx: Tx, order_id: str, kind: str, about: str, owner: str) -> bool:
    """Record a notification; False when it is known."""
    return bool(
        await tx.execute(
            "INSERT INTO notifications (order_id, kind, about, owner, at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            order_id, kind, about, owner, tx.now_us,
        )
    )  # fmt: skip


async def notifications_of(reads: Tx | Query, order_id: str) -> list[tuple[str, str, int]]:
    """(kind, owner, microseconds) of an order's notifications, oldest first."""
    rows = await reads.fetch("SELECT kind, owner, at FROM notifications WHERE order_id = ? ORDER BY at, kind", order_id)
    return [(kind, owner, at) for kind, owner, at in rows]
