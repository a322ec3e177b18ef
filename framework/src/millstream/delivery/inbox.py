"""The inbox: what a subscription has accepted, unique by (subscription, source, id).

It can forget only what cannot come back as new (rule C8). Per (subscription, partition, source) the store keeps the
newest message time it accepted, capped by its own clock. Rows older than that minus the retention are purged, and a
message older than that bound which the inbox does not know is never run: nobody can tell any more whether it ran.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ports.store import Row, Session
from .claims import Claim
from .prepared import Prepared

__all__ = ["Admission", "admit", "purge"]

_COLUMNS = ("subscription", "source", "id", "partition", "time")
_WATERMARK = """
INSERT INTO millstream_watermarks (subscription, partition, source, newest) VALUES (?, ?, ?, ?)
ON CONFLICT (subscription, partition, source) DO UPDATE SET newest = excluded.newest
WHERE millstream_watermarks.newest < excluded.newest
"""

Admission = list[str]
"""For each message of a batch: `new`, `known` (a repeat) or `old` (older than the inbox remembers)."""


async def admit(session: Session, claim: Claim, batch: Sequence[Prepared], now_us: int, retention_us: int) -> Admission:
    """Write the inbox rows of a batch; say which messages are new. Undecodable ones have no identity and are new.

    What was queued before has run when this returns.
    """
    subscription, partition = claim.place
    newest_known: list[Row] = []
    session.queue_fetch(
        "SELECT source, newest FROM millstream_watermarks WHERE subscription = ? AND partition = ?",
        claim.place,
        newest_known.extend,
    )
    result: Admission = ["new"] * len(batch)
    places: dict[tuple[str, str], int] = {}
    for index, item in enumerate(batch):
        message = item.message
        if message.id and places.setdefault((message.source, message.id), index) != index:
            result[index] = "known"
    rows = [
        (subscription, source, id_, partition, batch[index].time_us or now_us)
        for (source, id_), index in places.items()
    ]
    new: list[bool] = []
    if rows:
        new = await session.insert_new("millstream_inbox", _COLUMNS, rows)
    else:
        await session.flush()
    marks: dict[str, int] = dict(newest_known)
    raised: dict[str, int] = {}
    for row, index, is_new in zip(rows, places.values(), new, strict=True):
        source, time_us = row[1], row[4]
        if not is_new:
            result[index] = "known"
        elif (time_us if time_us < now_us else now_us) < marks.get(source, 0) - retention_us:
            result[index] = "old"
        elif time_us > raised.get(source, 0):
            raised[source] = time_us
    for source, newest in raised.items():
        if min(newest, now_us) > marks.get(source, 0):
            session.queue(_WATERMARK, (subscription, partition, source, min(newest, now_us)))
    return result


async def purge(
    session: Session, after: tuple[int, str, str], retention_us: int, limit: int
) -> tuple[tuple[int, str, str] | None, int]:
    """Look at `limit` rows behind `after` in key order and delete those that cannot come back as new.

    Returns where to go on (None at the end) and how many rows went. A walk over the key needs no index on time, which
    every insert would have to pay for.
    """
    rows = await session.fetch(
        "SELECT i.subscription, i.source, i.id, i.time < w.newest - ? FROM millstream_inbox i "
        "LEFT JOIN millstream_watermarks w ON w.subscription = i.subscription AND w.partition = i.partition "
        "AND w.source = i.source WHERE (i.subscription, i.source, i.id) > (?, ?, ?) "
        "ORDER BY i.subscription, i.source, i.id LIMIT ?",
        retention_us,
        *after,
        limit,
    )
    gone = [row[:3] for row in rows if row[3]]
    await session.execute_many("DELETE FROM millstream_inbox WHERE subscription = ? AND source = ? AND id = ?", gone)
    return (rows[-1][:3] if len(rows) == limit else None), len(gone)
