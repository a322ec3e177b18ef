"""Sources that number their events per key but may deliver them out of order (rule F3).

A lane of such a subscription is ordered by the source's number instead of the log's position: the number stands in the
`layout` column of its parked messages, which is the first part of a place in a lane. What comes too early is parked
there before the position moves, in a lane of state `GAP` that is due when the gap's time is over. The missing number
queues up before it and makes the lane due at once; from there on everything is the parked path's ordinary work, so
retries, dead letters and redrive need no rule of their own:

- numbers below `expected` have been let in: what carries such a number is a retry, a redriven letter, or stale;
- a dead letter was let in before it died, so that going on past it expects the next number;
- the gap's time counts only while the lane is in state `GAP`, which is not while anything of it waits, runs or is held;
- once that time is over, the lane goes on with the smallest number there is.

A message whose number cannot be read, and one whose number was let in or is taken already, becomes a dead letter that
holds no lane.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any, Literal, cast

import msgspec

from ..ports.store import Session
from .claims import Claim
from .lanes import CHUNK, GAP, WAITING, Lane
from .prepared import Prepared
from .subscription import Sequence

__all__ = ["Order", "Sequences", "number_of"]

Order = Literal["next", "behind", "early", "stale", "unnumbered", "misplaced"]
LARGEST = (1 << 63) - 2

_EXPECT = """
INSERT INTO millstream_sequences (subscription, partition, tenant, key, expected) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (subscription, partition, tenant, key) DO UPDATE SET expected = excluded.expected
"""
_FILL = """
UPDATE millstream_lanes SET state = ?, due = ?
WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ? AND state = ?
"""


class Sequences:
    """What the lanes of a claim expect, inside one transaction of its holder: read, judge, and write with `flush`."""

    __slots__ = ("_changed", "_claim", "_expected", "_filled", "_placed", "_sequence", "_session")

    def __init__(self, session: Session, claim: Claim, sequence: Sequence) -> None:
        self._session = session
        self._claim = claim
        self._sequence = sequence
        self._expected: dict[Lane, int] = {}
        self._changed: set[Lane] = set()
        self._filled: set[Lane] = set()
        self._placed: set[tuple[Lane, int]] = set()

    async def load(self, lanes: Items[Lane]) -> None:
        """Read what these lanes expect, in few statements."""
        wanted = [lane for lane in dict.fromkeys(lanes) if lane not in self._expected]
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            marks = ", ".join(["(?, ?)"] * len(chunk))
            rows = await self._session.fetch(
                "SELECT tenant, key, expected FROM millstream_sequences WHERE subscription = ? AND partition = ? "  # noqa: S608 - only marks are put in
                f"AND (tenant, key) IN (VALUES {marks})",
                *self._claim.place,
                *(part for lane in chunk for part in lane),
            )
            self._expected.update({(row[0], row[1]): row[2] for row in rows})
        for lane in wanted:
            self._expected.setdefault(lane, self._sequence.first)

    async def judge(self, item: Prepared, waiting: bool) -> Order:
        """Where a message from the log belongs; `waiting`: its lane has a row. Gives it its place in the lane.

        `next` runs now, `behind` queues up in its lane, `early` opens a lane that waits for what is missing; `stale` and
        `unnumbered` are dead letters.
        """
        number = number_of(item, self._sequence.field)
        if number is None:
            return "unnumbered"
        item.layout = number
        lane = (item.tenant, item.key)
        expected = await self._expects(lane)
        if number < expected:
            return "stale"
        if waiting:
            if await self._taken(lane, number):
                return "stale"
            if number == expected:
                self._filled.add(lane)
        elif number == expected:
            self._let_in(lane, number)
            return "next"
        self._placed.add((lane, number))
        return "behind" if waiting else "early"

    async def judge_parked(self, item: Prepared, expired: bool) -> Order:
        """Whether the parked message that comes next in its lane may start; `expired`: its gap's time is over.

        `next` may, `early` waits for a missing number, `misplaced` was edited to carry another number than its place.
        """
        number = number_of(item, self._sequence.field)
        if number is None:
            return "unnumbered"
        if number != item.layout:
            item.layout = number
            return "misplaced"
        expected = await self._expects((item.tenant, item.key))
        if number > expected and not expired:
            return "early"
        if number >= expected:
            self._let_in((item.tenant, item.key), number)
        return "next"

    async def flush(self, now_us: int) -> None:
        """Write what is expected now, and make lanes due whose gap was filled. After the parked rows were written."""
        if self._changed:
            await self._session.execute_many(
                _EXPECT, [(*self._claim.place, *lane, self._expected[lane]) for lane in sorted(self._changed)]
            )
        if self._filled:
            await self._session.execute_many(
                _FILL, [(WAITING, now_us, *self._claim.place, *lane, GAP) for lane in sorted(self._filled)]
            )

    async def _expects(self, lane: Lane) -> int:
        if lane not in self._expected:
            await self.load([lane])
        return self._expected[lane]

    def _let_in(self, lane: Lane, number: int) -> None:
        self._expected[lane] = number + 1
        self._changed.add(lane)

    async def _taken(self, lane: Lane, number: int) -> bool:
        if (lane, number) in self._placed:
            return True
        return (
            await self._session.fetch_one(
                "SELECT 1 FROM millstream_parked WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ? "
                "AND layout = ? LIMIT 1",
                *self._claim.place,
                *lane,
                number,
            )
            is not None
        )


def number_of(item: Prepared, field: str) -> int | None:
    """The number that a message carries, also where its type is not known here; None if there is none to be read."""
    if item.event is not None:
        number: Any = getattr(item.event, field, None)
    else:
        try:
            data: Any = msgspec.json.decode(item.message.data)
        except msgspec.DecodeError:
            return None
        number = cast(dict[str, Any], data).get(field) if isinstance(data, dict) else None
    return number if type(number) is int and -LARGEST <= number <= LARGEST else None
