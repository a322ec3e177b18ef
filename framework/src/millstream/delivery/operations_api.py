"""What an operator may ask of one service's store: the seam between the admin API and the kernel's tables.

`Operations` is implemented once, in `delivery/operations.py`; `http/admin.py` puts it on HTTP, and the CLI and the
console speak to that. Reads see committed rows only. Writes run in a transaction of their own that writes the claim row
as well (rule C1), so they never race with the worker that holds the partition.

Times are microseconds since 1970 by the store's clock. Rows never carry a payload except where a person asked for one
message by its id (`dead_letter`, `held_row`).
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

__all__ = [
    "DeadLetter",
    "DeadLetterFilter",
    "DeadLetterRow",
    "HeldKey",
    "HeldRow",
    "LaneRow",
    "Moved",
    "Operations",
    "OutboxState",
    "PositionRow",
]

LaneState = Literal["parked", "held"]
"""`parked`: its head waits until it is due. `held`: a dead letter stands at its head until somebody decides."""


class LaneRow(msgspec.Struct, frozen=True):
    """A lane that does not flow: something of it is parked, or a dead letter holds it."""

    service: str
    subscription: str
    topic: str
    partition: int
    key: str
    tenant: str | None
    state: LaneState
    parked: int
    """How many of its messages wait."""
    attempts: int
    """Verdicts of the handler on its head so far."""
    due_us: int | None
    """When its head is tried next; None while it is held."""
    since_us: int
    """When the lane stopped flowing."""
    reason: str
    """The last error of its head, shortened."""


class PositionRow(msgspec.Struct, frozen=True):
    """How far one subscription has come in one partition."""

    service: str
    subscription: str
    topic: str
    partition: int
    position: int
    owner: str | None
    epoch: int
    expires_us: int
    parked: int
    dead_letters: int
    effect: bool = False
    latest: int | None = None
    """The log's last position, or this one when nothing is left to read; filled in by the admin API, which knows the log.
    Lag is `latest - position`."""


class DeadLetterFilter(msgspec.Struct, frozen=True):
    """Which dead letters are meant; all conditions that are set must hold. Without any: all of the service.

    ids: exactly these. reason: a part of the reason's text. before_us, after_us: dead since before or after then.
    after_id: paging, only letters with a larger id.
    """

    ids: tuple[int, ...] = ()
    subscription: str | None = None
    topic: str | None = None
    key: str | None = None
    tenant: str | None = None
    type: str | None = None
    reason: str | None = None
    before_us: int | None = None
    after_us: int | None = None
    after_id: int = 0


class DeadLetterRow(msgspec.Struct, frozen=True):
    """A message that used up its attempts, without its data. `id` grows with time within a service."""

    service: str
    id: int
    subscription: str
    topic: str
    partition: int
    position: int
    key: str | None
    tenant: str | None
    message_id: str
    source: str
    type: str
    reason: str
    attempts: int
    dead_since_us: int
    holds_lane: bool


class DeadLetter(msgspec.Struct, frozen=True):
    """One dead letter with everything a person needs to decide.

    `message` is the stored CloudEvents JSON as text (undecodable bytes are shown with replacement characters).
    """

    row: DeadLetterRow
    message: str
    error: str
    """The last error in full, with where it was raised."""
    behind: int
    """Messages of its lane that wait behind it."""


class Moved(msgspec.Struct, frozen=True):
    """What a redrive, a drop or a dry run of one did.

    One call moves a bounded number, oldest first; call again with the same filter while `remaining` is above 0.
    """

    matched: int
    """How many letters the filter meant before this call."""
    moved: int
    """How many were moved; 0 for a dry run."""
    remaining: int
    ids: tuple[int, ...] = ()
    """The moved ones (for a dry run: those that the first call would move)."""


class HeldKey(msgspec.Struct, frozen=True):
    """A key whose next row the log refused for good (rule R3): nothing of this key leaves until somebody decides."""

    topic: str
    key: str
    row_id: int
    """The refused outbox row."""
    reason: str
    since_us: int
    waiting: int
    """Outbox rows of the key, the refused one included."""


class HeldRow(msgspec.Struct, frozen=True):
    """A refused outbox row with its message as text."""

    held: HeldKey
    message: str


class OutboxState(msgspec.Struct, frozen=True):
    """What a service has committed but not yet published."""

    service: str
    depth: int
    oldest_us: int | None
    """When the oldest row was written; None when there is none."""
    timers: int
    """Delayed events that are not yet due."""
    next_timer_us: int | None
    held: tuple[HeldKey, ...] = ()


class Operations(Protocol):
    """The operator's view of one service. Every name that is not known raises `Refused` and lists the known ones."""

    @property
    def service(self) -> str: ...

    async def lanes(
        self,
        *,
        subscription: str | None = None,
        key: str | None = None,
        state: LaneState | None = None,
        limit: int = 100,
    ) -> list[LaneRow]:
        """Lanes that do not flow, those waiting longest first."""
        ...

    async def positions(self, *, subscription: str | None = None) -> list[PositionRow]:
        """Every subscription and partition, ordered by both."""
        ...

    async def dead_letters(self, letters: DeadLetterFilter, *, limit: int = 100) -> list[DeadLetterRow]:
        """Letters that the filter means, by id. Page with `after_id`."""
        ...

    async def dead_letter(self, letter_id: int) -> DeadLetter | None:
        """One letter with its message; None when there is none of this id."""
        ...

    async def redrive(
        self,
        letters: DeadLetterFilter,
        *,
        dry_run: bool = False,
        edit: bytes | None = None,
        rate: float | None = None,
        limit: int = 500,
    ) -> Moved:
        """Put letters back to their own places in their lanes, attempts 0, due now (rule F2).

        edit: new data (JSON) for the one letter that the filter names by id; its place and its id stay.
        rate: letters per second; the due times are spread so instead of all being now.

        Raises:
            Refused: `edit` with more than one letter, or data that is no JSON.
        """
        ...

    async def drop(self, letters: DeadLetterFilter, *, dry_run: bool = False, limit: int = 500) -> Moved:
        """Discard letters for good; a lane that one of them held goes on."""
        ...

    async def outbox(self) -> OutboxState:
        """Depth, age and held keys."""
        ...

    async def held_row(self, topic: str, key: str) -> HeldRow | None:
        """The refused row of a held key, with its message; None when the key is not held."""
        ...

    async def free_key(self, topic: str, key: str) -> None:
        """Let the relay try the held key again as it stands.

        Raises:
            Refused: the key is not held.
        """
        ...

    async def edit_row(self, topic: str, key: str, row_id: int, data: bytes) -> None:
        """Replace the data of the refused row, then free the key. `row_id` must still be the refused one.

        Raises:
            Refused: the key is not held by this row, or the data is no JSON or too large.
        """
        ...

    async def drop_row(self, topic: str, key: str, row_id: int) -> None:
        """Discard the refused row for good, then free the key. `row_id` must still be the refused one.

        Raises:
            Refused: the key is not held by this row.
        """
        ...

    async def skip(self, subscription: str, partition: int, to: int) -> int:
        """Move a subscription's position forward to `to` without handling what lies between; return the old position.

        Raises:
            Refused: `to` is not ahead of the position.
        """
        ...
