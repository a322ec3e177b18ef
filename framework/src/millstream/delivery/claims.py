"""Claims: who consumes which partition, and how far it has come.

A claim is a row of the service's own store. Every transaction of its holder begins by writing that row under its
epoch (rule C1): a holder that was replaced changes nothing any more, and the position moves with the work it stands
for. The store's clock alone decides about expiry.
"""

from __future__ import annotations

import msgspec

from ..errors import ClaimLost
from ..ports.store import Session

__all__ = ["RELAY", "Claim", "Division", "advance", "divide", "free", "release", "renew", "take", "touch"]

RELAY = 0
"""The subscription id of relay shards."""

_TAKE = """
UPDATE millstream_claims
SET owner = ?, epoch = epoch + 1, fence = fence + 1, expires = millstream_now() + ?,
    suspect = CASE WHEN owner IS NULL OR suspect > ? THEN suspect ELSE ? END
WHERE (subscription, partition) IN (
    SELECT subscription, partition FROM millstream_claims
    WHERE subscription = ? AND partition = ? AND (owner IS NULL OR expires < millstream_now())
    /*postgresql FOR UPDATE SKIP LOCKED */
)
RETURNING epoch, position, suspect
"""
# A row that is locked is being written by its holder (rule C9): nobody waits for it, neither to take nor to extend it.
_RENEW = """
UPDATE millstream_claims SET expires = millstream_now() + ?
WHERE (subscription, partition) IN (
    SELECT subscription, partition FROM millstream_claims WHERE owner = ? /*postgresql FOR UPDATE SKIP LOCKED */
)
"""
_FREE = """
UPDATE millstream_claims SET expires = millstream_now() - 1
WHERE (subscription, partition) IN (
    SELECT subscription, partition FROM millstream_claims
    WHERE owner = ? AND expires >= millstream_now() /*postgresql FOR UPDATE SKIP LOCKED */
)
"""
_ADVANCE = """
UPDATE millstream_claims
SET position = ?, expires = millstream_now() + ?, suspect = CASE WHEN suspect > ? THEN suspect - ? ELSE 0 END
WHERE subscription = ? AND partition = ? AND epoch = ? AND position = ?
"""
_TOUCH = """
UPDATE millstream_claims SET expires = millstream_now() + ?, fence = fence + ?
WHERE subscription = ? AND partition = ? AND epoch = ? RETURNING fence
"""
_RELEASE = """
UPDATE millstream_claims SET owner = NULL, expires = millstream_now()
WHERE subscription = ? AND partition = ? AND epoch = ?
"""


class Claim:
    """A claim in its holder's hand. `position` and `suspect` mirror the row as of the last commit."""

    __slots__ = ("epoch", "lease_us", "partition", "position", "subscription", "suspect")

    def __init__(
        self, subscription: int, partition: int, epoch: int, position: int, suspect: int, lease_us: int
    ) -> None:
        self.subscription = subscription
        self.partition = partition
        self.epoch = epoch
        self.position = position
        self.suspect = suspect
        self.lease_us = lease_us

    @property
    def place(self) -> tuple[int, int]:
        return self.subscription, self.partition


async def take(
    session: Session, subscription: int, partition: int, owner: str, lease_us: int, batch: int
) -> Claim | None:
    """Take one claim if it is free or expired; None if somebody holds it.

    From a holder that did not release it, up to `batch` messages behind the position become suspect: one of them may
    have killed it (rule C4).
    """
    row = await session.fetch_one(_TAKE, owner, lease_us, batch, batch, subscription, partition)
    if row is None:
        return None
    # What the former holder left running or waiting for a newer worker is due again.
    await session.execute(
        "UPDATE millstream_lanes SET state = 0, due = millstream_now() "
        "WHERE subscription = ? AND partition = ? AND state IN (2, 3)",
        subscription,
        partition,
    )
    return Claim(subscription, partition, row[0], row[1], row[2], lease_us)


def advance(session: Session, claim: Claim, position: int, messages: int) -> None:
    """Move the position from where the claim stands; the first statement of a batch. It travels with the next one.

    Raises, here or where the session next waits for the store:
        ClaimLost: the epoch or the position is not ours any more.
    """
    before = claim.position

    def check(changed: int) -> None:
        if changed != 1:
            raise ClaimLost(f"claim {claim.place} has another holder or stands elsewhere than {before}")

    params = (position, claim.lease_us, messages, messages, *claim.place, claim.epoch, before)
    session.queue(_ADVANCE, params, check)


async def touch(session: Session, claim: Claim, fences: int = 0) -> int:
    """Write the claim without moving it, and draw `fences` fence numbers; returns the highest drawn.

    Raises:
        ClaimLost: the epoch is not ours any more.
    """
    row = await session.fetch_one(_TOUCH, claim.lease_us, fences, *claim.place, claim.epoch)
    if row is None:
        raise ClaimLost(f"claim {claim.place} has another holder")
    return row[0]


async def release(session: Session, claim: Claim) -> None:
    """Give a claim back cleanly; what it was doing is finished. No error if it is not ours any more."""
    await session.execute(_RELEASE, *claim.place, claim.epoch)


async def renew(session: Session, owner: str, lease_us: int) -> None:
    """Extend all claims of an owner, and its own sign of life; forget workers that gave none.

    A claim that a transaction of its holder is writing now is extended by that one.
    """
    await session.execute(_RENEW, lease_us, owner)
    await session.execute(
        "INSERT INTO millstream_workers (id, expires) VALUES (?, millstream_now() + ?) "
        "ON CONFLICT (id) DO UPDATE SET expires = excluded.expires",
        owner,
        lease_us,
    )
    await session.execute("DELETE FROM millstream_workers WHERE expires < millstream_now()")


async def free(session: Session, worker: str, expires: int) -> bool:
    """Let the claims of a worker whose process has ended expire now; False if it has given a sign of life since `expires`."""
    if not await session.execute("DELETE FROM millstream_workers WHERE id = ? AND expires = ?", worker, expires):
        return False
    await session.execute(_FREE, worker)
    return True


async def divide(session: Session, owner: str, lease_us: int) -> Division:
    """What one worker holds, should take and should give back now (rule C10).

    All claims and all live workers are sorted; claim i belongs to worker i mod W. A worker also takes what stayed free
    for a whole lease, whoever it belongs to, and gives back what belongs to another one that is alive.
    """
    workers = [row[0] for row in await session.fetch("SELECT id FROM millstream_workers ORDER BY id")]
    rows = await session.fetch(
        "SELECT subscription, partition, owner, epoch, expires < millstream_now(), "
        "millstream_now() - expires FROM millstream_claims ORDER BY subscription, partition"
    )
    division = Division({}, [], [])
    for index, (subscription, partition, holder, epoch, expired, free_for) in enumerate(rows):
        place = (subscription, partition)
        belongs = bool(workers) and workers[index % len(workers)] == owner
        if holder == owner:
            division.held[place] = epoch
            if not belongs:
                division.surplus.append(place)
        elif (holder is None or expired) and (belongs or free_for > lease_us):
            division.wanted.append(place)
    return division


class Division(msgspec.Struct):
    """Claims by (subscription, partition): `held` by this worker under an epoch, `wanted`: free for it to take,
    `surplus`: held, but another worker's."""

    held: dict[tuple[int, int], int]
    wanted: list[tuple[int, int]]
    surplus: list[tuple[int, int]]
